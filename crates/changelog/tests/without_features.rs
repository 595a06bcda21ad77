//! What a program says of logs that it was built without the means to read.

#![cfg(not(any(feature = "aead", feature = "lz4")))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use afterimage_changelog::{Error, Keys, open_log_with, recover, salvage};

fn golden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    folder.join(name)
}

fn refusals(name: &str) -> [Error; 3] {
    let path = golden(name);
    [
        open_log_with(&path, &Keys::none()).unwrap_err(),
        recover(&path, |_| Ok(())).unwrap_err(),
        salvage(&path, |_| Ok(())).unwrap_err(),
    ]
}

#[test]
fn an_encrypted_log_is_refused_with_the_name_of_its_key() {
    for error in refusals("version-1-encrypted.ailog") {
        assert!(matches!(error.cause(), Error::NoCipher { .. }), "{error}");
        let id = "26b8a268efc8efbcf4ec6e3e9ae16059";
        assert!(error.to_string().contains(id), "{error}");
    }
}

#[test]
fn a_compressed_log_is_refused_as_such() {
    for name in [
        "version-1-compressed.ailog",
        "version-1-compressed-encrypted.ailog",
    ] {
        for error in refusals(name) {
            assert!(matches!(error.cause(), Error::NoCompression), "{error}");
        }
    }
}
