//! The metrics endpoint serves people and Prometheus, and withstands hostile clients.

mod page;
mod page_in_browser;
mod requests;
mod server;
mod tls;
