//! A full disk: what was acknowledged is safe, the error says so, and the next run goes on when there is space.

use crate::help::{backends, disk, mount_point, rounds, skipped, system, with_mounts};
use crate::writer::{Load, Writer};
use highwater_store::StoreError;
use std::time::Duration;

const PROBE: &str = "d=$(mktemp -d) && mount -t tmpfs -o size=1m none $d && umount $d && rmdir $d";

#[test]
fn a_full_disk_loses_nothing() {
    let dir = disk();
    if !with_mounts("disk_full::fills", PROBE, dir.path()) {
        skipped("a full disk", "needs to mount a small one");
    }
}

#[test]
#[ignore = "run by the test above, where it may mount"]
fn fills() {
    let Some(at) = mount_point() else { return };
    for backend in backends() {
        // Large values take long without optimisation: when more rounds are asked for.
        for (bytes, megabytes) in [(100_000, 9), (2_000_000, 18)].into_iter().take(rounds(1)) {
            system(&format!("mount -t tmpfs -o size={megabytes}m none {}", at.display()));
            let mut load = Load { dir: at.join("store"), backend, bytes, shards: 1, last: u64::MAX >> 24 };
            let (mut full, mut opened, mut epoch) = (0, 0, 0);
            for more in [1, 2] {
                load.last = epoch + 4000;
                let mut writer = Writer::start(&load, &[]);
                // The rest of the disk fills up beside the store, whatever it is at.
                let (filler, size) = (at.join(format!("filler-{full}")), 700_000 * more);
                writer.listen(if full == 0 { 0 } else { 1 }, Duration::ZERO);
                let fill = format!("head -c {size} /dev/zero > {} || true", filler.display());
                system(&fill);
                writer.end();
                let failed = writer.failed.clone().unwrap_or_else(|| panic!("{load:?}: the disk was not full"));
                assert!(failed.contains("no space left") && failed.contains(" safe"), "{load:?}: {failed}");
                full += 1;
                // On the full disk it opens, or says again that there is no space.
                match load.check() {
                    Ok(found) => {
                        assert!(found >= writer.acknowledged.max(epoch), "{load:?}: {found}, {}", writer.acknowledged);
                        opened += 1;
                    }
                    Err(StoreError::NoSpace { .. }) => {}
                    Err(error) => panic!("{load:?}: {error}"),
                }
                let size = megabytes + 4 * more;
                system(&format!("mount -o remount,size={size}m {}", at.display()));
                epoch = load.check_after(writer.acknowledged.max(epoch), "a full disk");
            }
            system(&format!("mount -o remount,size=200m {}", at.display()));
            load.last = epoch + 50;
            let mut writer = Writer::start(&load, &[]);
            writer.end();
            assert!(writer.done, "{load:?}: {:?}", writer.failed);
            assert_eq!(load.check_after(writer.acknowledged, "space again"), epoch + 50);
            system(&format!("umount {}", at.display()));
            eprintln!(
                "{backend}, values of {bytes} bytes: full {full} times, opened {opened} times at once; nothing lost"
            );
        }
    }
}
