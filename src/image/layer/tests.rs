//! Layers as nobody's tools write them, against a model of what they mean and a canary outside.

mod model;

use std::{collections::BTreeSet, fs, io::Write as _, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use tar::{Builder, Header};
use tempfile::TempDir;

use super::*;
use crate::image::{decompress::digest, tree::remove_tree};

/// One entry of a layer, its path written into the header as it is.
#[derive(Clone, Debug)]
enum Step {
    Folder(String),
    File(String, &'static str),
    Symlink(String, String),
    HardLink(String, String),
    Raw(String, EntryType, u32),
}

use Step::{File, Folder, HardLink, Raw, Symlink};

fn header(path: &str, kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header.set_cksum();
    header
}

fn layer(steps: &[Step]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for step in steps {
        let (mut header, content) = match step {
            Folder(path) => (header(path, EntryType::Directory, 0o755, 0), ""),
            File(path, content) => (header(path, EntryType::Regular, 0o644, content.len() as u64), *content),
            Symlink(path, _) => (header(path, EntryType::Symlink, 0o777, 0), ""),
            HardLink(path, _) => (header(path, EntryType::Link, 0o644, 0), ""),
            Raw(path, kind, mode) => (header(path, *kind, *mode, 0), ""),
        };
        if let Symlink(_, target) | HardLink(_, target) = step {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_cksum();
        }
        builder.append(&header, content.as_bytes()).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

fn unpack_into(root: &Path, layers: &[Vec<u8>], limits: &Limits) -> Result<Usage, LayerError> {
    let mut tree = Tree::new(root).expect("a folder");
    let mut usage = Usage::default();
    for layer in layers {
        let mut content = Vec::new();
        // A stream that is broken has no digest; its error comes first.
        let _ = decompressed(layer.as_slice()).and_then(|mut reader| reader.read_to_end(&mut content));
        unpack(&mut tree, layer.as_slice(), &digest(&content), limits, &mut usage)?;
    }
    tree.finish().expect("modes");
    Ok(usage)
}

fn unpacked(layers: &[Vec<Step>]) -> Result<TempDir, LayerError> {
    let root = tempfile::tempdir().expect("a folder");
    let layers: Vec<_> = layers.iter().map(|steps| layer(steps)).collect();
    unpack_into(root.path(), &layers, &Limits::default()).map(|_| root)
}

/// Every path below a folder, with `/` for a folder, ` -> ` for a link and ` = ` for a file.
fn listing(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.strip_prefix(root).expect("below").display().to_string();
            let kind = path.symlink_metadata().expect("there").file_type();
            found.insert(if kind.is_dir() {
                folders.push(path);
                format!("{name}/")
            } else if kind.is_symlink() {
                format!("{name} -> {}", fs::read_link(&path).expect("a link").display())
            } else {
                format!("{name} = {}", String::from_utf8_lossy(&fs::read(&path).expect("readable")))
            });
        }
    }
    found
}

#[track_caller]
fn check(layers: &[Vec<Step>], expected: &[&str]) {
    let root = unpacked(layers).unwrap_or_else(|error| panic!("{layers:?}: {error}"));
    let expected: BTreeSet<_> = expected.iter().map(|&line| line.to_owned()).collect();
    assert_eq!(listing(root.path()), expected, "{layers:?}");
}

#[track_caller]
fn refused(steps: &[Step], part: &str) {
    let error = unpacked(&[steps.to_vec()]).expect_err("refused").to_string();
    assert!(error.contains(part), "{steps:?}: {error}");
}

fn folder(path: &str) -> Step {
    Folder(path.to_owned())
}

fn content(path: &str, content: &'static str) -> Step {
    File(path.to_owned(), content)
}

fn symlink(path: &str, target: &str) -> Step {
    Symlink(path.to_owned(), target.to_owned())
}

fn hard_link(path: &str, target: &str) -> Step {
    HardLink(path.to_owned(), target.to_owned())
}

#[test]
fn whiteouts_hide_lower_layers_and_only_those() {
    let lower = vec![folder("a"), content("a/x", "1"), folder("a/b"), content("a/b/y", "1"), content("z", "1")];
    check(&[lower.clone(), vec![content("a/.wh.x", "")]], &["a/", "a/b/", "a/b/y = 1", "z = 1"]);
    check(&[lower.clone(), vec![content(".wh.a", "")]], &["z = 1"]);
    check(&[lower.clone(), vec![content("a/.wh..wh..opq", "")]], &["a/", "z = 1"]);
    // What the same layer brings stays, before and behind the mark, and so does the way to it.
    for steps in [
        vec![content("a/.wh..wh..opq", ""), content("a/b/new", "2")],
        vec![content("a/b/new", "2"), content("a/.wh..wh..opq", "")],
        vec![content("a/b/new", "2"), content(".wh.a", "")],
        vec![folder("a"), content(".wh.a", ""), content("a/b/new", "2")],
    ] {
        check(&[lower.clone(), steps], &["a/", "a/b/", "a/b/new = 2", "z = 1"]);
    }
    check(
        &[lower.clone(), vec![content("nowhere/.wh.x", ""), content(".wh.q", ""), content("nowhere/.wh..wh..opq", "")]],
        &["a/", "a/x = 1", "a/b/", "a/b/y = 1", "z = 1"],
    );
    for name in [".wh.", ".wh..", "a/.wh..."] {
        refused(&[folder("a"), content(name, "")], "hides no name");
    }
}

#[test]
fn later_entries_replace_earlier_ones_of_any_kind() {
    let lower = vec![folder("a"), content("a/x", "1"), symlink("l", "a"), content("f", "1"), hard_link("g", "f")];
    check(&[lower.clone(), vec![content("a", "2")]], &["a = 2", "l -> a", "f = 1", "g = 1"]);
    check(
        &[lower.clone(), vec![symlink("a", "f"), content("f", "2"), content("f", "3")]],
        &["a -> f", "l -> a", "f = 3", "g = 1"],
    );
    check(
        &[lower.clone(), vec![folder("l"), folder("f"), content("l/n", "2")]],
        &["a/", "a/x = 1", "l/", "l/n = 2", "f/", "g = 1"],
    );
    // A folder that is named again keeps what is in it; entries through a link arrive where it leads.
    check(&[lower, vec![folder("a"), content("l/n", "2")]], &["a/", "a/x = 1", "a/n = 2", "l -> a", "f = 1", "g = 1"]);
}

#[test]
fn hard_links_share_their_file() {
    let root =
        unpacked(&[vec![content("a/f", "1"), hard_link("/b/g", "./a/f"), hard_link("b/g", "b/g")]]).expect("fine");
    let inode = |name: &str| root.path().join(name).metadata().expect("there").ino();
    assert_eq!(inode("a/f"), inode("b/g"));
    refused(&[hard_link("a", "b")], "target of the hard link");
    refused(&[folder("d"), hard_link("a", "d")], "`a`");
    refused(&[hard_link("a", "../../etc/passwd")], "climbs out");
}

#[test]
fn names_that_climb_out_are_refused_and_absolute_ones_confined() {
    for name in ["../x", "a/../../x", "a/..", "..", "/../x"] {
        refused(&[folder("a"), content(name, "1")], "climbs out");
    }
    check(&[vec![content("/etc//./passwd", "1")]], &["etc/", "etc/passwd = 1"]);
    refused(&[content("a", "1"), content("a/b", "2")], "one of the folders above");
    refused(&[symlink("a", "nowhere"), content("a/b", "2")], "one of the folders above");
    refused(&[symlink("a", "b"), symlink("b", "a"), content("a/b", "2")], "one of the folders above");
    refused(&[content(".", "1")], "replace the root");
    // Through links, deeper than any single name could lead.
    let mut steps = vec![folder(&"d/".repeat(40)), symlink("l0", &"d/".repeat(40))];
    steps.extend((1..9).flat_map(|at| {
        [
            folder(&format!("l{}/{}", at - 1, "d/".repeat(30))),
            symlink(&format!("l{at}"), &format!("l{}/{}", at - 1, "d/".repeat(30))),
        ]
    }));
    refused(&steps, "200 folders deep");
}

#[test]
fn modes_times_and_owners_are_kept_as_far_as_they_are_safe() {
    let set_id = |mode| Raw("s".to_owned(), EntryType::Regular, mode);
    let layers = [
        vec![
            Raw("./".to_owned(), EntryType::Directory, 0o700),
            Raw("shut".to_owned(), EntryType::Directory, 0),
            set_id(0o6755),
        ],
        vec![
            content("shut/in", "1"),
            Raw("tmp".to_owned(), EntryType::Directory, 0o1777),
            Raw("old/".to_owned(), EntryType::Regular, 0o755),
        ],
    ];
    let root = unpacked(&layers).expect("fine");
    let stat = |name: &str| root.path().join(name).symlink_metadata().expect(name);
    let ours = rustix::process::geteuid().is_root();
    assert_eq!(stat("s").mode() & 0o7777, 0o755, "no set-user-ID");
    assert_eq!(stat("").mode() & 0o7777, 0o755, "any guest may enter the root");
    assert_eq!(stat("tmp").mode() & 0o7777, 0o1777);
    assert_eq!(stat("shut").mode() & 0o7777, if ours { 0 } else { 0o500 });
    assert!(stat("old").is_dir(), "a slash marks a folder in archives of before 1988");
    for name in ["s", "tmp", "shut"] {
        assert_eq!(stat(name).mtime(), 1_700_000_000, "{name}: compiled files are believed by their source's time");
        if ours {
            assert_eq!((stat(name).uid(), stat(name).gid()), (7, 8), "{name}");
        }
    }
    remove_tree(root.path()).expect("whatever the modes");
    assert!(!root.path().exists());
}

#[test]
fn devices_and_pipes_are_left_out() {
    let odd = [EntryType::Char, EntryType::Block, EntryType::Fifo].map(|kind| Raw(format!("{kind:?}"), kind, 0o666));
    check(&[odd.to_vec()], &[]);
    refused(&[Raw("v".to_owned(), EntryType::new(b'V'), 0)], "of a kind");
}

#[test]
fn times_of_extended_headers_have_fractions() {
    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions([("mtime", &b"1600000000.25"[..])]).expect("in memory");
    builder.append(&header("a", EntryType::Regular, 0o644, 0), &b""[..]).expect("in memory");
    let root = tempfile::tempdir().expect("a folder");
    unpack_into(root.path(), &[builder.into_inner().expect("in memory")], &Limits::default()).expect("fine");
    let stat = root.path().join("a").metadata().expect("there");
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_600_000_000, 250_000_000));
}

#[test]
fn bombs_end_at_their_bounds() {
    let small = Limits { bytes: 1 << 20, file: 1 << 19, entries: 10 };
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("in memory")
    };
    let file = |name: &str, size: usize| {
        let mut builder = Builder::new(Vec::new());
        builder.append(&header(name, EntryType::Regular, 0o644, size as u64), &vec![0; size][..]).expect("in memory");
        builder.into_inner().expect("in memory")
    };
    let mut long_name = Builder::new(Vec::new());
    let name = vec![b'a'; 3 << 20];
    long_name
        .append(&header("././@LongLink", EntryType::GNULongName, 0, name.len() as u64), &name[..])
        .expect("in memory");
    let long_name = long_name.into_inner().expect("in memory");
    let claims = {
        let mut bytes = header("liar", EntryType::Regular, 0o644, u64::from(u32::MAX)).as_bytes().to_vec();
        bytes.resize(2048, 0);
        bytes
    };
    let many: Vec<_> = (0..11).map(|at| content(&format!("f{at}"), "")).collect();
    let behind = [layer(&[content("a", "1")]), vec![0; 4 << 20]].concat();
    for (bomb, part) in [
        (vec![gzip(&file("big", 1 << 20))], "more than the 524288 of one file"),
        (vec![claims], "more than the 524288 of one file"),
        (vec![file("a", 1 << 19), file("b", 1 << 19), file("c", 1)], "more than 1048576 bytes"),
        (vec![gzip(&behind)], "more than 1048576 bytes"),
        (vec![layer(&many)], "more than 10 files"),
        (vec![gzip(&long_name)], "names and headers"),
    ] {
        let root = tempfile::tempdir().expect("a folder");
        let error = unpack_into(root.path(), &bomb, &small).expect_err("a bomb").to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn content_that_is_not_what_the_configuration_says_is_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let mut tree = Tree::new(root.path()).expect("a folder");
    let (good, bad) = (layer(&[content("a", "1")]), layer(&[content("a", "2")]));
    let result = unpack(&mut tree, bad.as_slice(), &digest(&good), &Limits::default(), &mut Usage::default());
    let error = result.expect_err("another content").to_string();
    assert!(error.contains(&digest(&good)) && error.contains(&digest(&bad)), "{error}");
    let cut = &good[..good.len() / 3];
    unpack(&mut tree, cut, &digest(cut), &Limits::default(), &mut Usage::default()).expect_err("cut within a file");
}

#[test]
fn sparse_files_keep_their_holes_and_their_content() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sparse");
    let file = fs::File::create(&path).expect("a file");
    file.set_len(64 << 20).expect("a hole");
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 5 << 20).expect("written");
    let tar = |format: &str| {
        let output =
            Command::new("tar").args(["--sparse", format, "-C"]).arg(folder.path()).args(["-cf-", "sparse"]).output();
        output.expect("GNU tar is there").stdout
    };
    for layer in [tar("--format=gnu"), {
        let mut builder = Builder::new(Vec::new());
        builder.sparse(false);
        builder.append_path_with_name(&path, "sparse").expect("in memory");
        builder.into_inner().expect("in memory")
    }] {
        let root = tempfile::tempdir().expect("a folder");
        unpack_into(root.path(), &[layer], &Limits::default()).expect("fine");
        let copy = root.path().join("sparse");
        assert_eq!(digest(&fs::read(&copy).expect("readable")), digest(&fs::read(&path).expect("readable")));
        assert!(copy.metadata().expect("there").blocks() * 512 < 2 << 20, "the holes take no disk");
    }
    let root = tempfile::tempdir().expect("a folder");
    let error =
        unpack_into(root.path(), &[tar("--format=posix")], &Limits::default()).expect_err("not read").to_string();
    assert!(error.contains("sparse"), "{error}");
}
