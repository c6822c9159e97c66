//! Paho's own file persistence behind the trait, so that it can be killed at a call like any other.

// Calls into the C library.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    path::Path,
    ptr, slice,
};

use paho_mqtt::{ClientPersistence, Error, Result};

unsafe extern "C" {
    fn pstopen(
        handle: *mut *mut c_void,
        client_id: *const c_char,
        server_uri: *const c_char,
        context: *mut c_void,
    ) -> c_int;
    fn pstclose(handle: *mut c_void) -> c_int;
    fn pstput(
        handle: *mut c_void,
        key: *mut c_char,
        count: c_int,
        buffers: *mut *mut c_char,
        lengths: *mut c_int,
    ) -> c_int;
    fn pstget(
        handle: *mut c_void,
        key: *mut c_char,
        buffer: *mut *mut c_char,
        length: *mut c_int,
    ) -> c_int;
    fn pstremove(handle: *mut c_void, key: *mut c_char) -> c_int;
    fn pstkeys(handle: *mut c_void, keys: *mut *mut *mut c_char, count: *mut c_int) -> c_int;
    fn pstclear(handle: *mut c_void) -> c_int;
    fn pstcontainskey(handle: *mut c_void, key: *mut c_char) -> c_int;
    fn MQTTAsync_free(memory: *mut c_void);
}

/// Persistence that `PersistenceType::FilePath` selects.
pub struct Files {
    folder: CString,
    handle: *mut c_void,
}

// SAFETY: Paho also calls it from several threads, under its lock.
unsafe impl Send for Files {}

impl Files {
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: text(folder.to_str().expect("UTF-8")),
            handle: ptr::null_mut(),
        }
    }
}

fn text(text: &str) -> CString {
    CString::new(text).expect("no NUL byte")
}

fn answer(code: c_int) -> Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(Error::Failure)
    }
}

// SAFETY of every call below: the strings end in NUL and, as the buffers, live until it returns; the handle is the one that
// `pstopen` gave; what the library hands out was made with its own allocator and is freed once.
impl ClientPersistence for Files {
    fn open(&mut self, client_id: &str, server_uri: &str) -> Result<()> {
        let (client, server) = (text(client_id), text(server_uri));
        let context = self.folder.as_ptr().cast_mut().cast();
        answer(unsafe {
            pstopen(
                &raw mut self.handle,
                client.as_ptr(),
                server.as_ptr(),
                context,
            )
        })
    }

    fn close(&mut self) -> Result<()> {
        answer(unsafe { pstclose(self.handle) })
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> Result<()> {
        let key = text(key);
        let mut lengths: Vec<c_int> = buffers
            .iter()
            .map(|buffer| c_int::try_from(buffer.len()).expect("short"))
            .collect();
        let mut starts: Vec<*mut c_char> = buffers
            .iter()
            .map(|buffer| buffer.as_ptr().cast_mut().cast())
            .collect();
        let count = c_int::try_from(buffers.len()).expect("few");
        let key = key.as_ptr().cast_mut();
        answer(unsafe {
            pstput(
                self.handle,
                key,
                count,
                starts.as_mut_ptr(),
                lengths.as_mut_ptr(),
            )
        })
    }

    fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        let key = text(key);
        let (mut buffer, mut length) = (ptr::null_mut(), 0);
        let key = key.as_ptr().cast_mut();
        answer(unsafe { pstget(self.handle, key, &raw mut buffer, &raw mut length) })?;
        if buffer.is_null() {
            return Ok(Vec::new());
        }
        let length = usize::try_from(length).expect("a length");
        let value = unsafe { slice::from_raw_parts(buffer.cast(), length) }.to_vec();
        unsafe { MQTTAsync_free(buffer.cast()) };
        Ok(value)
    }

    fn remove(&mut self, key: &str) -> Result<()> {
        let key = text(key);
        answer(unsafe { pstremove(self.handle, key.as_ptr().cast_mut()) })
    }

    fn keys(&mut self) -> Result<Vec<String>> {
        let (mut keys, mut count) = (ptr::null_mut(), 0);
        answer(unsafe { pstkeys(self.handle, &raw mut keys, &raw mut count) })?;
        if keys.is_null() {
            return Ok(Vec::new());
        }
        let count = usize::try_from(count).expect("a number");
        let copied = unsafe { slice::from_raw_parts(keys, count) }
            .iter()
            .map(|&key| {
                let copy = unsafe { CStr::from_ptr(key) }
                    .to_string_lossy()
                    .into_owned();
                unsafe { MQTTAsync_free(key.cast()) };
                copy
            })
            .collect();
        unsafe { MQTTAsync_free(keys.cast()) };
        Ok(copied)
    }

    fn clear(&mut self) -> Result<()> {
        answer(unsafe { pstclear(self.handle) })
    }

    fn contains_key(&mut self, key: &str) -> bool {
        let key = text(key);
        // The wrapper of paho-mqtt 0.14 inverts it once more, so that the library gets its own answer.
        unsafe { pstcontainskey(self.handle, key.as_ptr().cast_mut()) != 0 }
    }
}
