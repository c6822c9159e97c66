//! Which way round the linked paho-mqtt hears `contains_key`.

use std::{ffi::c_void, sync::OnceLock};

use paho_mqtt::{ClientPersistence, Result, UserPersistence};

/// What `contains_key` must return for Paho to hear that the record is there, or is not.
///
/// The C library takes 0 for "it is there". The wrapper of paho-mqtt 0.14 hands it 1 for `true`,
/// so that an honest answer makes Paho lose a QoS 2 message at a restart. The wrapper itself is
/// asked, once, so that a repair there does not become a defect here.
pub(crate) fn to_abi(there: bool) -> bool {
    there == true_means_there()
}

fn true_means_there() -> bool {
    static HEARD: OnceLock<bool> = OnceLock::new();
    *HEARD.get_or_init(|| c_hears(true) == 0)
}

/// What the C library is given when a persistence answers `contains_key` with `answer`.
#[allow(unsafe_code)]
fn c_hears(answer: bool) -> i32 {
    let mut persistence: Box<dyn ClientPersistence> = Box::new(ConstantPersistence(answer));
    let handle: *mut Box<dyn ClientPersistence> = &raw mut persistence;
    let key = c"s-1".as_ptr().cast_mut();
    // SAFETY: the callback takes its handle for the address of such a box, which lives until the
    // end of this function, and only reads the key, which ends in NUL.
    unsafe { UserPersistence::on_contains_key(handle.cast::<c_void>(), key) }
}

/// Answers every `contains_key` alike.
struct ConstantPersistence(bool);

impl ClientPersistence for ConstantPersistence {
    fn open(&mut self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }

    fn put(&mut self, _: &str, _: Vec<&[u8]>) -> Result<()> {
        Ok(())
    }

    fn get(&mut self, _: &str) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn remove(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    fn keys(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn clear(&mut self) -> Result<()> {
        Ok(())
    }

    fn contains_key(&mut self, _: &str) -> bool {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paho_gets_zero_for_present_key_only() {
        assert_eq!(c_hears(to_abi(true)), 0);
        assert_ne!(c_hears(to_abi(false)), 0);
    }
}
