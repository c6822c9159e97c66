//! Probes how the linked paho-mqtt passes the result of `contains_key` to C.

use std::{ffi::c_void, sync::OnceLock};

use paho_mqtt::{ClientPersistence, Result, UserPersistence};

/// Returns the `bool` that makes Paho C understand whether the record is present.
///
/// C takes 0 for "present", but the wrapper of paho-mqtt 0.14 passes 1 for `true`, so an honest result
/// makes Paho lose a QoS 2 message at a restart. The wrapper itself is probed, once, so that a fix in
/// paho-mqtt does not become a defect here.
pub(crate) fn to_abi(is_present: bool) -> bool {
    is_present == true_means_present()
}

fn true_means_present() -> bool {
    static PROBED: OnceLock<bool> = OnceLock::new();
    *PROBED.get_or_init(|| c_return_value(true) == 0)
}

/// Returns what C receives when `contains_key` of a persistence returns `result`.
#[allow(unsafe_code)]
fn c_return_value(result: bool) -> i32 {
    let mut persistence: Box<dyn ClientPersistence> = Box::new(ConstantPersistence(result));
    let handle: *mut Box<dyn ClientPersistence> = &raw mut persistence;
    let key = c"s-1".as_ptr().cast_mut();
    // SAFETY: the callback casts its handle to a pointer to such a box, which lives until the end of
    // this function. It only reads the key, which ends in NUL.
    unsafe { UserPersistence::on_contains_key(handle.cast::<c_void>(), key) }
}

/// Returns the same result for every `contains_key`.
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
        assert_eq!(c_return_value(to_abi(true)), 0);
        assert_ne!(c_return_value(to_abi(false)), 0);
    }
}
