use super::faults::ENOSPC;
use super::*;

#[test]
fn synced_bytes_under_a_synced_name_survive_every_crash() {
    for seed in 0..50 {
        let fs = SimFs::seeded(seed);
        fs.create_dir_all(Path::new("/d")).unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        let file = fs.create(Path::new("/d/a")).unwrap();
        file.append(&[7; 1000]).unwrap();
        file.sync_data().unwrap();
        fs.sync_dir(Path::new("/d")).unwrap();
        file.append(&[9; 3000]).unwrap();
        fs.crash();
        let bytes = fs.read(Path::new("/d/a")).unwrap();
        assert_eq!(&bytes[..1000], &[7; 1000], "seed {seed}");
        assert!(bytes.len() <= 4000 && bytes[1000..].iter().all(|b| *b == 9 || *b == 0));
        assert!(file.append(b"x").is_err(), "a handle from before the crash is dead");
    }
}

#[test]
fn what_was_not_synced_is_lost_for_some_seed() {
    let (mut name_lost, mut bytes_lost, mut torn_once) = (0, 0, 0);
    for seed in 0..100 {
        let fs = SimFs::seeded(seed);
        fs.create(Path::new("/a")).unwrap().append(&[1; 2000]).unwrap();
        fs.crash();
        match fs.read(Path::new("/a")) {
            Err(_) => name_lost += 1,
            Ok(bytes) if bytes.is_empty() => bytes_lost += 1,
            Ok(bytes) => torn_once += i32::from(bytes != [1; 2000]),
        }
    }
    assert!(name_lost > 0 && bytes_lost > 0 && torn_once > 0);
}

#[test]
fn rename_is_one_step_and_old_content_stays_behind_it() {
    for seed in 0..50 {
        let fs = SimFs::seeded(seed);
        for (name, text) in [("/a", b"old"), ("/b", b"new")] {
            let file = fs.create(Path::new(name)).unwrap();
            file.append(text).unwrap();
            file.sync_data().unwrap();
        }
        fs.sync_dir(Path::new("/")).unwrap();
        fs.rename(Path::new("/b"), Path::new("/a")).unwrap();
        fs.crash();
        let a = fs.read(Path::new("/a")).unwrap();
        assert!(a == b"old" || a == b"new");
        assert_eq!(fs.exists(Path::new("/b")), a == b"old");
    }
}

#[test]
fn faults_come_when_told() {
    let fs = SimFs::seeded(1);
    let file = fs.create(Path::new("/a")).unwrap();
    fs.inject(Fault::Append { after: 1, errno: ENOSPC });
    assert!(file.append(b"x").is_ok());
    assert_eq!(file.append(b"y").unwrap_err().raw_os_error(), Some(ENOSPC));
    assert_eq!(file.append(b"z").unwrap(), 1);
    fs.inject(Fault::Sync { after: 0 });
    assert!(file.sync_data().is_err());
    assert!(file.sync_data().is_ok(), "says yes and writes nothing");
    fs.set_capacity_bytes(Some(3));
    assert!(file.append(b"12").is_err());
    fs.set_capacity_bytes(None);
    fs.inject(Fault::PowerCut { after: 0 });
    assert!(file.append(b"x").is_err() && fs.power_is_gone());
    assert!(fs.list(Path::new("/")).is_err());
    assert!(fs.lock(Path::new("/lock")).is_err());
    fs.crash();
    let held = fs.lock(Path::new("/lock")).unwrap();
    assert_eq!(fs.lock(Path::new("/lock")).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
    drop(held);
    assert!(fs.lock(Path::new("/lock")).is_ok());
}

#[test]
fn a_misdirected_sector_shows_after_a_crash_and_hits_two_places_at_most() {
    let (mut missing, mut overwritten) = (0, 0);
    for seed in 0..60 {
        let fs = SimFs::seeded(seed);
        let make = |name: &str, byte: u8| {
            let file = fs.create(Path::new(name)).unwrap();
            file.append(&[byte; 4096]).unwrap();
            file.sync_data().unwrap();
            file
        };
        let (a, _b) = (make("/a", 1), make("/b", 2));
        fs.sync_dir(Path::new("/")).unwrap();
        fs.inject(Fault::Misdirect { after: 0 });
        a.append(&[3; 2048]).unwrap();
        a.sync_data().unwrap();
        let whole = [[1; 4096].to_vec(), [3; 2048].to_vec()].concat();
        assert_eq!(fs.read(Path::new("/a")).unwrap(), whole, "before a crash nobody sees it");
        fs.crash();
        let (a, b) = (fs.read(Path::new("/a")).unwrap(), fs.read(Path::new("/b")).unwrap());
        assert_eq!((a.len(), b.len()), (6144, 4096));
        let differ = a.iter().zip(&whole).filter(|(x, y)| x != y).count();
        missing += i32::from(a[4096..].iter().any(|byte| *byte != 3));
        overwritten += i32::from(b.contains(&3) || a[..4096].contains(&3));
        assert!(differ + b.iter().filter(|byte| **byte != 2).count() <= 2 * 512, "seed {seed}");
        assert!(b.iter().all(|byte| [2, 3].contains(byte)), "seed {seed}");
    }
    assert!(missing == 60 && overwritten > 40, "{missing} {overwritten}");
}

#[test]
fn weather_is_the_same_for_the_same_seed_and_ends_with_a_crash() {
    let run = |seed| {
        let fs = SimFs::seeded(seed);
        fs.set_weather(Weather { no_space: 9, append_eio: 9, sync_eio: 9, read_eio: 9, misdirected: 9 });
        let file = fs.create(Path::new("/a")).unwrap();
        let mut codes = Vec::new();
        for _ in 0..200 {
            codes.push(file.append(&[7; 700]).err().and_then(|e| e.raw_os_error()));
            codes.push(file.sync_data().err().and_then(|e| e.raw_os_error()));
            codes.push(file.read_at(&mut [0; 8], 0).err().and_then(|e| e.raw_os_error()));
        }
        fs.crash();
        assert!((0..50).all(|_| fs.create(Path::new("/b")).unwrap().append(b"x").is_ok()));
        (codes, fs.read(Path::new("/a")).ok())
    };
    let (codes, bytes) = run(5);
    assert_eq!((codes.clone(), bytes), run(5));
    assert!(codes.contains(&Some(ENOSPC)) && codes.contains(&Some(5)));
    assert_ne!(codes, run(6).0);
}

#[test]
fn a_read_fails_once_and_rot_changes_one_bit() {
    let fs = SimFs::seeded(3);
    assert_eq!(fs.rot(), None);
    let file = fs.create(Path::new("/a")).unwrap();
    file.append(&[0; 100]).unwrap();
    fs.inject(Fault::Read { after: 1 });
    assert!(file.read_at(&mut [0; 8], 0).is_ok() && file.read_at(&mut [0; 8], 0).is_err());
    assert!(file.read_at(&mut [0; 8], 0).is_ok());
    let (path, bit) = fs.rot().unwrap();
    let bytes = fs.read(&path).unwrap();
    assert_eq!(bytes.iter().map(|b| b.count_ones()).sum::<u32>(), 1);
    assert_eq!(bytes[(bit / 8) as usize], 1 << (bit % 8));
}

#[test]
fn held_syncs_wait_until_they_are_let_go() {
    let fs = SimFs::seeded(3);
    let file = fs.create(Path::new("/a")).unwrap();
    file.append(b"x").unwrap();
    fs.hold_syncs(true);
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync_data());
        assert_eq!(fs.data_syncs(), 0, "it waits");
        fs.hold_syncs(false);
        assert!(sync.join().unwrap().is_ok());
    });
    assert_eq!(fs.data_syncs(), 1);
}

#[test]
fn a_directory_that_takes_the_name_of_a_removed_one_has_nothing_to_do_with_it() {
    for seed in 0..40 {
        let fs = SimFs::seeded(seed);
        let (temporary, gone, kept) = (Path::new("/tmp-1"), Path::new("/gone-1"), Path::new("/kept"));
        fs.create_dir_all(temporary).unwrap();
        fs.create(&temporary.join("x")).unwrap();
        fs.rename(temporary, gone).unwrap();
        fs.remove_dir_all(gone).unwrap();
        fs.create_dir_all(temporary).unwrap();
        let file = fs.create(&temporary.join("x")).unwrap();
        file.append(b"kept").unwrap();
        file.sync_data().unwrap();
        fs.sync_dir(temporary).unwrap();
        fs.rename(temporary, kept).unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        fs.crash();
        assert_eq!(fs.read(&kept.join("x")).unwrap(), b"kept", "seed {seed}");
    }
}
