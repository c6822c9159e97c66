//! Messages move between Paho's files and Redis whole, in order and once, however often the program is killed.

mod export;
mod files;
mod moves;
