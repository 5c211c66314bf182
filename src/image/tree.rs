//! The folder that layers are unpacked into, one entry after the other.
//!
//! Knows nothing of archives. Every name comes from hostile input: a parent folder is opened by the kernel as in a
//! chroot (`openat2` with `RESOLVE_IN_ROOT`), and everything after that happens relative to its descriptor and without
//! following a link, so that no entry can reach a file outside, whatever links earlier entries have laid.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT},
    io::Errno,
};

/// Folders below each other, so that walks of the tree stay small in stack and descriptors.
const DEEPEST: u32 = 200;
/// How much of a file is written at a time; a piece of zeros becomes a hole.
const PIECE: usize = 128 << 10;
/// Folders that an archive implies without an entry.
const IMPLIED: Meta = Meta { mode: 0o755, uid: 0, gid: 0, seconds: 0, nanoseconds: 0 };

/// What an entry says about its file. Set-user-ID and set-group-ID bits are not kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

/// Why an entry cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    #[error("one of the folders above it is a file, or a link that leads to none")]
    Parent,
    #[error("the target of the hard link is not there")]
    Target,
    #[error("it would replace the root folder itself")]
    Root,
    #[error("it lies more than {DEEPEST} folders deep")]
    Deep,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for TreeError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A path within the tree, without `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryPath {
    /// Joined by `/`; empty for the root.
    pub(super) parent: Vec<u8>,
    /// Empty for the root itself.
    pub(super) name: Vec<u8>,
}

#[derive(Clone)]
struct Parent {
    fd: Rc<OwnedFd>,
    inode: u64,
    depth: u32,
}

struct Folder {
    depth: u32,
    meta: Meta,
}

/// A tree under construction. Folders get their modes, owners and times in [`Tree::finish`]: until then they are open
/// to us, whatever the layers say.
pub(super) struct Tree {
    root: OwnedFd,
    owners: bool,
    /// Every folder of the tree by inode: it is all one file system, and we made them all.
    folders: HashMap<u64, Folder>,
    /// What the current layer brought, as folder and name: whiteouts hide only what is below their layer.
    fresh: HashSet<(u64, Vec<u8>)>,
    /// The last parent, as most entries share it with the one before.
    last: Option<(Vec<u8>, Parent)>,
}

impl Tree {
    /// An empty tree in a folder that exists. Only root keeps owners.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let root = rustix::fs::openat(CWD, folder, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let folders = HashMap::from([(rustix::fs::fstat(&root)?.st_ino, Folder { depth: 0, meta: IMPLIED })]);
        let owners = rustix::process::geteuid().is_root();
        Ok(Self { root, owners, folders, fresh: HashSet::new(), last: None })
    }

    /// From here on entries belong to a new layer.
    pub(super) fn next_layer(&mut self) {
        self.fresh.clear();
    }

    /// A folder: a new one, or new properties of the one that is there.
    pub(super) fn folder(&mut self, path: &EntryPath, meta: Meta) -> Result<(), TreeError> {
        if path.name.is_empty() {
            let root = rustix::fs::fstat(&self.root)?.st_ino;
            self.folders.insert(root, Folder { depth: 0, meta });
            return Ok(());
        }
        let parent = self.parent(&path.parent)?;
        let inode = self.make_folder(&parent, &path.name)?;
        self.folders.insert(inode, Folder { depth: parent.depth + 1, meta });
        self.fresh.insert((parent.inode, path.name.clone()));
        Ok(())
    }

    /// A regular file with all of `content`.
    pub(super) fn file(&mut self, path: &EntryPath, meta: Meta, content: &mut dyn Read) -> Result<(), TreeError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.make(path, |parent, name| rustix::fs::openat(parent, name, flags, Mode::from(0o600)))?;
        let mut file = File::from(fd);
        write_with_holes(&mut file, content)?;
        if self.owners {
            rustix::fs::fchown(&file, Some(owner(meta.uid)), Some(group(meta.gid)))?;
        }
        rustix::fs::fchmod(&file, Mode::from(if self.owners { meta.mode & 0o777 } else { meta.mode & 0o777 | 0o400 }))?;
        rustix::fs::futimens(&file, &times(meta))?;
        Ok(())
    }

    /// A symbolic link; its target is text and never followed out of the tree.
    pub(super) fn symlink(&mut self, path: &EntryPath, target: &[u8], meta: Meta) -> Result<(), TreeError> {
        self.make(path, |parent, name| rustix::fs::symlinkat(target, parent, name))?;
        let parent = self.parent(&path.parent)?;
        let name = path.name.as_slice();
        if self.owners {
            rustix::fs::chownat(
                &*parent.fd,
                name,
                Some(owner(meta.uid)),
                Some(group(meta.gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        rustix::fs::utimensat(&*parent.fd, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Another name for a file that is there.
    pub(super) fn hard_link(&mut self, path: &EntryPath, target: &EntryPath) -> Result<(), TreeError> {
        let source = self.existing(&target.parent)?.ok_or(TreeError::Target)?;
        if rustix::fs::statat(&*source.fd, target.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).is_err() {
            return Err(TreeError::Target);
        }
        let parent = self.parent(&path.parent)?;
        if (parent.inode, &path.name) == (source.inode, &target.name) {
            return Ok(());
        }
        self.make(path, |parent, name| {
            rustix::fs::linkat(&*source.fd, target.name.as_slice(), parent, name, AtFlags::empty())
        })
    }

    /// Removes what lower layers have at `path`.
    pub(super) fn whiteout(&mut self, path: &EntryPath) -> Result<(), TreeError> {
        if let Some(parent) = self.existing(&path.parent)? {
            self.clear_entry(parent.fd.as_fd(), parent.inode, &path.name)?;
            self.last = None;
        }
        Ok(())
    }

    /// Removes all that lower layers have in the folder at `path`.
    pub(super) fn opaque(&mut self, path: &[u8]) -> Result<(), TreeError> {
        if let Some(folder) = self.existing(path)? {
            let open = open_folder(folder.fd.as_fd(), b".")?;
            self.clear(&open, folder.inode)?;
            self.last = None;
        }
        Ok(())
    }

    /// Gives every folder what its entry said, and the root what a guest of any user needs.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let root = open_folder(self.root.as_fd(), b".")?;
        if let Some(folder) = self.folders.get_mut(&rustix::fs::fstat(&root)?.st_ino) {
            folder.meta.mode |= 0o555;
        }
        self.finish_folder(&root)
    }

    fn finish_folder(&self, folder: &OwnedFd) -> io::Result<()> {
        for name in names(folder)? {
            let stat = rustix::fs::statat(folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.finish_folder(&open_folder(folder.as_fd(), &name)?)?;
            }
        }
        let Some(Folder { meta, .. }) = self.folders.get(&rustix::fs::fstat(folder)?.st_ino) else { return Ok(()) };
        if self.owners {
            rustix::fs::fchown(folder, Some(owner(meta.uid)), Some(group(meta.gid)))?;
        }
        // Without root's rights we must still be able to read the folder, and so must an engine that runs as us.
        let mode = if self.owners { meta.mode & 0o1777 } else { meta.mode & 0o1777 | 0o500 };
        rustix::fs::fchmod(folder, Mode::from(mode))?;
        rustix::fs::futimens(folder, &times(*meta))?;
        Ok(())
    }

    /// Makes one entry by `make`, in the place of whatever is there.
    fn make<T>(
        &mut self,
        path: &EntryPath,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, TreeError> {
        if path.name.is_empty() {
            return Err(TreeError::Root);
        }
        let parent = self.parent(&path.parent)?;
        let result = match make(parent.fd.as_fd(), &path.name) {
            Err(Errno::EXIST) => {
                self.remove(parent.fd.as_fd(), &path.name)?;
                make(parent.fd.as_fd(), &path.name)?
            }
            first => first?,
        };
        self.fresh.insert((parent.inode, path.name.clone()));
        Ok(result)
    }

    /// The inode of the folder `name`, made when it is not there.
    fn make_folder(&mut self, parent: &Parent, name: &[u8]) -> Result<u64, TreeError> {
        if parent.depth >= DEEPEST {
            return Err(TreeError::Deep);
        }
        let make = || rustix::fs::mkdirat(&*parent.fd, name, Mode::from(0o700));
        let stat = || rustix::fs::statat(&*parent.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        match make() {
            Err(Errno::EXIST) if FileType::from_raw_mode(stat()?.st_mode) == FileType::Directory => {}
            Err(Errno::EXIST) => {
                self.remove(parent.fd.as_fd(), name)?;
                make()?;
            }
            first => first?,
        }
        Ok(stat()?.st_ino)
    }

    /// Opens the folder at `path`, and makes what is missing of it.
    fn parent(&mut self, path: &[u8]) -> Result<Parent, TreeError> {
        if let Some(parent) = self.existing(path)? {
            return Ok(parent);
        }
        let mut parent = self.existing(b"")?.ok_or(TreeError::Parent)?;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        let mut start = 0;
        for end in ends {
            if let Some(there) = self.existing(&path[..end])? {
                parent = there;
            } else {
                let name = &path[start..end];
                // A link that leads nowhere is there and yet cannot be opened.
                if rustix::fs::statat(&*parent.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                    return Err(TreeError::Parent);
                }
                let inode = self.make_folder(&parent, name)?;
                self.folders.insert(inode, Folder { depth: parent.depth + 1, meta: IMPLIED });
                parent = self.existing(&path[..end])?.ok_or(TreeError::Parent)?;
            }
            start = end + 1;
        }
        Ok(parent)
    }

    /// Opens the folder at `path`, links followed within the tree; none when it is not there.
    fn existing(&mut self, path: &[u8]) -> Result<Option<Parent>, TreeError> {
        if let Some((last, parent)) = &self.last
            && last == path
        {
            return Ok(Some(parent.clone()));
        }
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = if path.is_empty() { b"." } else { path };
        let fd = loop {
            match rustix::fs::openat2(&self.root, name, flags, Mode::empty(), how) {
                Ok(fd) => break fd,
                // A rename somewhere on the machine while `..` of a link was resolved: the kernel asks to try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(TreeError::Parent),
                Err(error) => return Err(error.into()),
            }
        };
        let inode = rustix::fs::fstat(&fd)?.st_ino;
        let depth = self.folders.get(&inode).map_or(0, |folder| folder.depth);
        let parent = Parent { fd: Rc::new(fd), inode, depth };
        self.last = Some((path.to_vec(), parent.clone()));
        Ok(Some(parent))
    }

    /// Removes the entry `name` with all that is below it.
    fn remove(&mut self, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        self.last = None;
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            // Linux says ISDIR, POSIX says PERM.
            Err(Errno::ISDIR | Errno::PERM) => {}
            done => return Ok(done?),
        }
        let open = open_folder(folder, name)?;
        self.folders.remove(&rustix::fs::fstat(&open)?.st_ino);
        for name in names(&open)? {
            self.remove(open.as_fd(), &name)?;
        }
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
    }

    /// Removes what lower layers have in a folder; whether something stays.
    fn clear(&mut self, folder: &OwnedFd, inode: u64) -> io::Result<bool> {
        let mut stays = false;
        for name in names(folder)? {
            stays |= self.clear_entry(folder.as_fd(), inode, &name)?;
        }
        Ok(stays)
    }

    /// Removes what lower layers have at an entry; whether it stays.
    fn clear_entry(&mut self, folder: BorrowedFd<'_>, inode: u64, name: &[u8]) -> io::Result<bool> {
        let fresh = self.fresh.contains(&(inode, name.to_vec()));
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            stat => stat?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let stays = self.clear(&open_folder(folder, name)?, stat.st_ino)?;
            if !stays && !fresh {
                self.folders.remove(&stat.st_ino);
                rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?;
            }
            Ok(stays || fresh)
        } else {
            if !fresh {
                rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
            }
            Ok(fresh)
        }
    }
}

/// Removes a folder of ours with all that is below it, whatever the modes of its folders.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        done => return done,
    }
    open_up(&rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)?;
    std::fs::remove_dir_all(path)
}

/// Makes every folder below ours to empty.
fn open_up(folder: &OwnedFd) -> io::Result<()> {
    rustix::fs::fchmod(folder, Mode::from(0o700))?;
    for name in names(folder)? {
        let stat = rustix::fs::statat(folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            rustix::fs::chmodat(folder, name.as_slice(), Mode::from(0o700), AtFlags::empty())?;
            open_up(&open_folder(folder.as_fd(), &name)?)?;
        }
    }
    Ok(())
}

fn open_folder(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// The names in a folder, read before anything in it changes.
fn names(folder: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn write_with_holes(file: &mut File, content: &mut dyn Read) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut hole = false;
    let mut length = 0;
    loop {
        let read = match content.read(&mut piece) {
            Ok(0) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        length += read as u64;
        hole = read >= 4096 && piece[..read].iter().all(|byte| *byte == 0);
        if hole {
            file.seek(SeekFrom::Start(length))?;
        } else {
            file.write_all(&piece[..read])?;
        }
    }
    // A file that ends in a hole is as long as its entry says all the same.
    if hole { file.set_len(length) } else { Ok(()) }
}

fn times(meta: Meta) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: meta.seconds, tv_nsec: meta.nanoseconds.into() },
    }
}

fn owner(uid: u32) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(uid)
}

fn group(gid: u32) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(gid)
}
