//! A directory that cannot be written to.

use crate::help::{backends, disk, mount_point, skipped, system, with_mounts};
use crate::writer::{Load, Writer, visible};
use highwater_store::{Store, StoreError};

const PROBE: &str = "d=$(mktemp -d) && mount -t tmpfs none $d && mount -o remount,ro $d && umount $d && rmdir $d";

#[test]
fn a_read_only_store_is_refused_untouched() {
    let dir = disk();
    if !with_mounts("read_only::refuses", PROBE, dir.path()) {
        skipped("a read-only store", "needs to mount");
    }
}

#[test]
#[ignore = "run by the test above, where it may mount"]
fn refuses() {
    let Some(at) = mount_point() else { return };
    for backend in backends() {
        system(&format!("mount -t tmpfs -o size=64m none {}", at.display()));
        let mut load = Load { dir: at.join("store"), backend, bytes: 200, shards: 1, last: 20 };
        Writer::start(&load, &[]).end();
        let before = visible(&at);
        system(&format!("mount -o remount,ro {}", at.display()));
        let refused = Store::open(load.options()).err().expect("nothing can be written there");
        let StoreError::Io { source, durable: None, .. } = &refused else { panic!("{refused}") };
        assert_eq!(source.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{refused}");
        assert_eq!(visible(&at), before);
        system(&format!("mount -o remount,rw {}", at.display()));
        load.last = 30;
        let mut writer = Writer::start(&load, &[]);
        writer.end();
        assert_eq!(load.check_after(writer.acknowledged, "a read-only mount"), 30);
        system(&format!("umount {}", at.display()));
    }
}
