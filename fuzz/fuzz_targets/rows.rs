//! Any bytes, as `Target::Rows` of the store reads them.
#![no_main]

use highwater_store::hostile::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    Target::Rows.read(bytes);
});
