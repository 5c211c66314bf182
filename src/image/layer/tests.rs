//! Layers as nobody's tools write them, against a model of what they mean and a canary outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
    process::Command,
};

use proptest::prelude::*;
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
fn refused(steps: Vec<Step>, part: &str) {
    let error = unpacked(std::slice::from_ref(&steps)).expect_err("refused").to_string();
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
    check(&[lower.clone(), vec![content("nowhere/.wh.x", ""), content(".wh.q", ""), content("nowhere/.wh..wh..opq", "")]],
        &["a/", "a/x = 1", "a/b/", "a/b/y = 1", "z = 1"]);
    for name in [".wh.", ".wh..", "a/.wh..."] {
        refused(vec![folder("a"), content(name, "")], "hides no name");
    }
}

#[test]
fn later_entries_replace_earlier_ones_of_any_kind() {
    let lower = vec![folder("a"), content("a/x", "1"), symlink("l", "a"), content("f", "1"), hard_link("g", "f")];
    check(&[lower.clone(), vec![content("a", "2")]], &["a = 2", "l -> a", "f = 1", "g = 1"]);
    check(&[lower.clone(), vec![symlink("a", "f"), content("f", "2"), content("f", "3")]], &["a -> f", "l -> a", "f = 3", "g = 1"]);
    check(&[lower.clone(), vec![folder("l"), folder("f"), content("l/n", "2")]],
        &["a/", "a/x = 1", "l/", "l/n = 2", "f/", "g = 1"]);
    // A folder that is named again keeps what is in it; entries through a link arrive where it leads.
    check(&[lower, vec![folder("a"), content("l/n", "2")]], &["a/", "a/x = 1", "a/n = 2", "l -> a", "f = 1", "g = 1"]);
}

#[test]
fn hard_links_share_their_file() {
    let root = unpacked(&[vec![content("a/f", "1"), hard_link("/b/g", "./a/f"), hard_link("b/g", "b/g")]]).expect("fine");
    let inode = |name: &str| root.path().join(name).metadata().expect("there").ino();
    assert_eq!(inode("a/f"), inode("b/g"));
    refused(vec![hard_link("a", "b")], "target of the hard link");
    refused(vec![folder("d"), hard_link("a", "d")], "`a`");
    refused(vec![hard_link("a", "../../etc/passwd")], "climbs out");
}

#[test]
fn names_that_climb_out_are_refused_and_absolute_ones_confined() {
    for name in ["../x", "a/../../x", "a/..", "..", "/../x"] {
        refused(vec![folder("a"), content(name, "1")], "climbs out");
    }
    check(&[vec![content("/etc//./passwd", "1")]], &["etc/", "etc/passwd = 1"]);
    refused(vec![content("a", "1"), content("a/b", "2")], "one of the folders above");
    refused(vec![symlink("a", "nowhere"), content("a/b", "2")], "one of the folders above");
    refused(vec![symlink("a", "b"), symlink("b", "a"), content("a/b", "2")], "one of the folders above");
    refused(vec![content(".", "1")], "replace the root");
    // Through links, deeper than any single name could lead.
    let mut steps = vec![folder(&"d/".repeat(40)), symlink("l0", &"d/".repeat(40))];
    steps.extend((1..9).flat_map(|at| {
        [folder(&format!("l{}/{}", at - 1, "d/".repeat(30))), symlink(&format!("l{at}"), &format!("l{}/{}", at - 1, "d/".repeat(30)))]
    }));
    refused(steps, "200 folders deep");
}

#[test]
fn modes_times_and_owners_are_kept_as_far_as_they_are_safe() {
    let set_id = |mode| Raw("s".to_owned(), EntryType::Regular, mode);
    let layers = [
        vec![Raw("./".to_owned(), EntryType::Directory, 0o700), Raw("shut".to_owned(), EntryType::Directory, 0), set_id(0o6755)],
        vec![content("shut/in", "1"), Raw("tmp".to_owned(), EntryType::Directory, 0o1777), Raw("old/".to_owned(), EntryType::Regular, 0o755)],
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
    refused(vec![Raw("v".to_owned(), EntryType::new(b'V'), 0)], "of a kind");
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
    long_name.append(&header("././@LongLink", EntryType::GNULongName, 0, name.len() as u64), &name[..]).expect("in memory");
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
        let output = Command::new("tar").args(["--sparse", format, "-C"]).arg(folder.path()).args(["-cf-", "sparse"]).output();
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
    let error = unpack_into(root.path(), &[tar("--format=posix")], &Limits::default()).expect_err("not read").to_string();
    assert!(error.contains("sparse"), "{error}");
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Folder,
    File(&'static str),
    Link(String),
}

/// What layers mean, without links that lead anywhere.
fn model(layers: &[Vec<Step>]) -> Result<BTreeMap<String, Node>, ()> {
    let mut tree: BTreeMap<String, Node> = BTreeMap::new();
    for steps in layers {
        let mut fresh = BTreeSet::new();
        for step in steps {
            let (Folder(path) | File(path, _) | Symlink(path, _) | HardLink(path, _) | Raw(path, ..)) = step;
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let ancestors: Vec<String> = path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
            let hides = name.starts_with(".wh.");
            let mut missing = false;
            for ancestor in &ancestors {
                match tree.get(ancestor) {
                    Some(Node::Folder) => {}
                    Some(Node::File(_)) => return Err(()),
                    Some(Node::Link(_)) if hides => missing = true,
                    Some(Node::Link(_)) => return Err(()),
                    None if hides => missing = true,
                    None => drop(tree.insert(ancestor.clone(), Node::Folder)),
                }
                if missing {
                    break;
                }
            }
            if hides && missing {
                continue;
            }
            let below = |top: &str, path: &str| top.is_empty() || path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'));
            if hides {
                let opaque = name == ".wh..wh..opq";
                let hidden = if opaque { parent.to_owned() } else { path.replacen(".wh.", "", 1) };
                let inside = |path: &str| below(&hidden, path) || (!opaque && path == hidden);
                let keep: BTreeSet<String> = fresh.iter().filter(|path: &&String| tree.contains_key(*path)).cloned().collect();
                let kept_above = |path: &str| keep.iter().any(|kept| kept == path || below(path, kept));
                tree.retain(|path, _| !inside(path) || kept_above(path));
                continue;
            }
            let node = match step {
                Folder(_) | Raw(..) => Node::Folder,
                File(_, content) => Node::File(content),
                Symlink(_, target) => Node::Link(target.clone()),
                HardLink(_, target) => match tree.get(target) {
                    None => return Err(()),
                    Some(_) if target == path => continue,
                    // What is in the way goes first, and the target with it when it lies there.
                    Some(Node::Folder) => return Err(()),
                    Some(_) if below(path, target) => return Err(()),
                    Some(node) => node.clone(),
                },
            };
            if tree.get(path) != Some(&Node::Folder) || node != Node::Folder {
                tree.retain(|other, _| !below(path, other));
                fresh.retain(|other: &String| !below(path, other));
            }
            tree.insert(path.clone(), node);
            fresh.insert(path.clone());
        }
    }
    Ok(tree)
}

fn any_path() -> impl Strategy<Value = String> {
    proptest::sample::select(vec!["a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/a/b", "a/b/a"]).prop_map(str::to_owned)
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any_path().prop_map(Folder),
        4 => (any_path(), proptest::sample::select(vec!["1", "2"])).prop_map(|(path, content)| File(path, content)),
        1 => any_path().prop_map(|path| Symlink(path, "nowhere".to_owned())),
        1 => (any_path(), any_path()).prop_map(|(path, target)| HardLink(path, target)),
        2 => any_path().prop_map(|path| {
            let (parent, name) = path.rsplit_once('/').map_or(("", path.as_str()), |(parent, name)| (parent, name));
            File(format!("{parent}/.wh.{name}").trim_start_matches('/').to_owned(), "")
        }),
        1 => any_path().prop_map(|path| File(format!("{path}/.wh..wh..opq"), "")),
    ]
}

fn any_hostile_step() -> impl Strategy<Value = Step> {
    let part = proptest::sample::select(vec!["a", "b", "c", "..", ".", "", "canary", ".wh.canary", ".wh..wh..opq"]);
    let path = proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
    let target = proptest::sample::select(vec!["..", "/", "../..", "../canary", "../../canary", "a", "/proc/self/root", "/proc/self/cwd", "OUTSIDE"]);
    (path, target, 0..4).prop_map(|(path, target, kind)| match kind {
        0 => Folder(path),
        1 => File(path, "2"),
        2 => Symlink(path, target.to_owned()),
        _ => HardLink(path, format!("{target}/canary/file")),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn layers_mean_what_the_model_says(layers in proptest::collection::vec(proptest::collection::vec(any_step(), 0..8), 1..4)) {
        let (expected, root) = (model(&layers), unpacked(&layers));
        prop_assert_eq!(expected.is_ok(), root.is_ok(), "{:?}", root.err());
        if let (Ok(expected), Ok(root)) = (expected, root) {
            let expected: BTreeSet<_> = expected.iter().map(|(path, node)| match node {
                Node::Folder => format!("{path}/"),
                Node::File(content) => format!("{path} = {content}"),
                Node::Link(target) => format!("{path} -> {target}"),
            }).collect();
            prop_assert_eq!(listing(root.path()), expected);
        }
    }

    #[test]
    fn nothing_outside_the_root_is_ever_touched(layers in proptest::collection::vec(proptest::collection::vec(any_hostile_step(), 0..10), 1..3)) {
        let outside = tempfile::tempdir().expect("a folder");
        let (root, canary) = (outside.path().join("root"), outside.path().join("canary"));
        fs::create_dir(&root).and_then(|()| fs::create_dir(&canary)).expect("folders");
        fs::write(canary.join("file"), "alive").expect("a file");
        let here = outside.path().display().to_string();
        let layers: Vec<_> = layers.iter().map(|steps| {
            let steps: Vec<_> = steps.iter().map(|step| match step {
                Symlink(path, target) => Symlink(path.clone(), target.replace("OUTSIDE", &here)),
                HardLink(path, target) => HardLink(path.clone(), target.replace("OUTSIDE", &here)),
                other => other.clone(),
            }).collect();
            layer(&steps)
        }).collect();
        let _ = unpack_into(&root, &layers, &Limits::default());
        let stat = canary.join("file").metadata().expect("still there");
        prop_assert_eq!((stat.nlink(), fs::read(canary.join("file")).expect("readable")), (1, b"alive".to_vec()));
        let mut names: Vec<_> = fs::read_dir(outside.path()).expect("readable").map(|entry| entry.expect("readable").file_name().as_bytes().to_vec()).collect();
        names.sort();
        prop_assert_eq!(names, vec![b"canary".to_vec(), b"root".to_vec()]);
        prop_assert_eq!(fs::read_dir(&canary).expect("readable").count(), 1);
    }
}
