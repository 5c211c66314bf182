//! Random layers: against a model of what they mean, and against a canary outside the root.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
};

use proptest::prelude::*;

use super::{
    Step::{File, Folder, HardLink, Raw, Symlink},
    *,
};

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
                    None | Some(Node::Link(_)) if hides => missing = true,
                    Some(Node::File(_) | Node::Link(_)) => return Err(()),
                    None => drop(tree.insert(ancestor.clone(), Node::Folder)),
                }
                if missing {
                    break;
                }
            }
            if hides && missing {
                continue;
            }
            let below = |top: &str, path: &str| {
                top.is_empty() || path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'))
            };
            if hides {
                let opaque = name == ".wh..wh..opq";
                let hidden = if opaque { parent.to_owned() } else { path.replacen(".wh.", "", 1) };
                let inside = |path: &str| below(&hidden, path) || (!opaque && path == hidden);
                let keep: BTreeSet<String> =
                    fresh.iter().filter(|path: &&String| tree.contains_key(*path)).cloned().collect();
                let kept_above = |path: &str| keep.iter().any(|kept| kept == path || below(path, kept));
                tree.retain(|path, _| !inside(path) || kept_above(path));
                continue;
            }
            let node = match step {
                Folder(_) | Raw(..) => Node::Folder,
                File(_, content) => Node::File(content),
                Symlink(_, target) => Node::Link(target.clone()),
                HardLink(_, target) => match tree.get(target) {
                    Some(_) if target == path => continue,
                    None | Some(Node::Folder) => return Err(()),
                    // What is in the way goes first, and the target with it when it lies there.
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
    let target = proptest::sample::select(vec![
        "..",
        "/",
        "../..",
        "../canary",
        "../../canary",
        "a",
        "/proc/self/root",
        "/proc/self/cwd",
        "OUTSIDE",
    ]);
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
