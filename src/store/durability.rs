//! [`Durability`]: what `put` waits for.

/// Decides what `put` waits for, and so which records a crash of the store can cost.
///
/// While the store is available, a crash of the program alone loses no record with either.
/// During an outage of the store new records exist only in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Waits until the store has confirmed the record.
    #[default]
    Confirmed,
    /// Waits until the operating system has accepted the record for the store.
    ///
    /// The store is asked for confirmation after at most 256 writes, 256 KiB or 0.1 s. A crash of the
    /// store *and* of the program within that time loses the record, and so does a power cut. Over
    /// TCP the kernel coalesces small writes until then, which saves Redis most of its work. It still
    /// sends them if the program dies.
    Pipelined,
}
