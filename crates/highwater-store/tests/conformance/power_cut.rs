//! Power cuts, on a real file system: what had not reached its disk is gone.
//!
//! The store lies on ext4 on a loop device. The process is stopped dead, then a copy of the device is taken as it is:
//! what still was in the page cache of the file system, files, names and all, is not in it. The copy is mounted in place
//! of the disk, as after a reboot, and the store must go on from there. A disk that keeps written blocks in a cache of its
//! own and loses these in any order is not played here; the protocol model does that, page by page.

use crate::help::{backends, disk, mount_point, rounds, skipped, system, with_mounts};
use crate::writer::{Load, Writer, visible};
use std::time::Duration;

const PROBE: &str = "d=$(mktemp -d) && truncate -s 4M $d/i && mkfs.ext4 -q $d/i && mkdir $d/m && mount -o loop $d/i $d/m && \
                     umount $d/m && rm -r $d";

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let dir = disk();
    if !with_mounts("power_cut::cuts", PROBE, dir.path()) {
        skipped("power cuts", "need ext4 on a loop device");
    }
}

#[test]
#[ignore = "run by the test above, where it may mount"]
fn cuts() {
    let Some(place) = mount_point() else { return };
    let (image, copy, mount) = (place.join("disk"), place.join("copy"), place.join("mnt"));
    let (image, copy, at) = (image.display(), copy.display(), mount.display());
    std::fs::create_dir(&mount).unwrap();
    let mut draw = fastrand::Rng::with_seed(11);
    for backend in backends() {
        let (mut lost, mut cuts) = (0, 0);
        for bytes in [10, 200, 2_000, 20_000, 2_000_000] {
            // An hour between two commits of the file system's own: nothing becomes durable unless it is synced.
            let mounted = format!("mount -o loop,commit=3600 {image} {at}");
            system(&format!("rm -f {image} && truncate -s 256M {image} && mkfs.ext4 -q {image} && {mounted}"));
            let mut epoch = 0;
            for _ in 0..rounds(2) {
                let (dir, shards) = (mount.join("store"), 1 + draw.usize(..2));
                let load = Load { dir: dir.clone(), backend, bytes, shards, last: u64::MAX >> 24 };
                let mut writer = Writer::start(&load, &[]);
                writer.listen(draw.usize(..8), Duration::from_micros(draw.u64(..8_000)));
                writer.kill();
                assert!(writer.failed.is_none() && !writer.done, "{load:?}: {:?}", writer.failed);
                let before = visible(&dir);
                system(&format!("cp --sparse=always {image} {copy} && umount {at} && mv {copy} {image} && {mounted}"));
                lost += usize::from(visible(&dir) != before);
                cuts += 1;
                epoch = load.check_after(writer.acknowledged.max(epoch), "a power cut");
            }
            system(&format!("umount {at}"));
        }
        eprintln!("{backend}: {cuts} power cuts, {lost} took bytes or names away, no acknowledged epoch was lost");
        assert!(lost > 0, "{backend}: no cut took anything away");
    }
}
