//! The durability of a write.

/// What `put` waits for, and so what a crash of the store can cost.
///
/// A crash of the program costs nothing with either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Until the store has said that it has the record.
    #[default]
    Confirmed,
    /// Until the operating system has taken it on its way to the store, which is asked for it after
    /// at most 256 changes, 256 KiB or a tenth of a second. A crash of the store *and* of the
    /// program within that time loses it, and so does a power cut. Over TCP the system gathers until
    /// then what is small, which spares Redis most of its work; it sends it when the program dies.
    Pipelined,
}
