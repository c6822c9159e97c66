//! The simulator finds what it should.
