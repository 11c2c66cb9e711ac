//! Where things lie in `DIR`, who may use it now, and how its files are written.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use protocol::ids::NodeId;

use super::{DevError, Settings};

/// The folder of a dev cluster.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

/// Exclusive use of a folder; ends when dropped, also when the process dies.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl Folder {
    /// The cluster in `root`, which exists.
    ///
    /// # Errors
    /// [`DevError::NoCluster`] when there is none.
    pub fn open(root: &Path) -> Result<Folder, DevError> {
        let folder = Folder::at(root)?;
        if folder.settings_file().is_file() {
            Ok(folder)
        } else {
            Err(DevError::NoCluster(root.to_owned()))
        }
    }

    /// The folder `root`, which exists, whether it holds a cluster or not.
    ///
    /// # Errors
    /// [`DevError::NoCluster`] when there is no such folder.
    pub fn at(root: &Path) -> Result<Folder, DevError> {
        match root.canonicalize() {
            Ok(root) => Ok(Folder { root }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(DevError::NoCluster(root.to_owned()))
            }
            Err(error) => Err(DevError::file("open", root)(error)),
        }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Settings of the cluster.
    pub fn settings_file(&self) -> PathBuf {
        self.root.join("dev.toml")
    }

    /// Configuration of an administrator.
    pub fn client_file(&self) -> PathBuf {
        self.root.join("client.toml")
    }

    /// Certificates and keys.
    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    /// Logs of every process.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// What belongs to one node.
    pub fn node(&self, node: NodeId) -> PathBuf {
        self.root.join(format!("node-{node}"))
    }

    /// What belongs to one coordinator.
    pub fn coordinator(&self, number: u32) -> PathBuf {
        self.root.join(format!("coordinator-{number}"))
    }

    fn lock_file(&self) -> PathBuf {
        self.root.join("dev.lock")
    }

    /// Waits until no other `lanefs dev` command changes this cluster.
    ///
    /// # Errors
    /// [`DevError::File`] when the lock file cannot be made.
    pub(crate) fn lock(&self) -> Result<FolderLock, DevError> {
        let path = self.lock_file();
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(DevError::file("open", &path))?;
        file.lock().map_err(DevError::file("lock", &path))?;
        Ok(FolderLock { _file: file })
    }

    /// Reads the settings.
    ///
    /// # Errors
    /// [`DevError::Damaged`] when the file is not what `dev up` wrote.
    pub fn settings(&self) -> Result<Settings, DevError> {
        let path = self.settings_file();
        let text = fs::read_to_string(&path).map_err(DevError::file("read", &path))?;
        let damaged = |text: String| DevError::Damaged { path: path.clone(), text };
        let settings: Settings =
            toml::from_str(&text).map_err(|error| damaged(error.message().replace('\n', " ")))?;
        match settings.cluster_id() {
            Some(_) => Ok(settings),
            None => Err(damaged("key cluster: expected 32 hexadecimal digits".to_owned())),
        }
    }

    /// Writes the settings.
    ///
    /// # Errors
    /// [`DevError`] names the file.
    pub(crate) fn store_settings(&self, settings: &Settings) -> Result<(), DevError> {
        let path = self.settings_file();
        let text = toml::to_string(settings)
            .map_err(|error| DevError::Damaged { path: path.clone(), text: error.to_string() })?;
        write_file(&path, 0o644, text.as_bytes())
    }

    /// Removes everything `dev up` made, and the folder too when `dev up` made it.
    ///
    /// # Errors
    /// [`DevError::File`] names what could not be removed.
    pub(crate) fn purge(&self, settings: &Settings) -> Result<(), DevError> {
        let nodes = (1..=settings.nodes).map(|node| self.node(NodeId(node)));
        let coordinators = (1..=settings.coordinators).map(|number| self.coordinator(number));
        for path in nodes.chain(coordinators).chain([self.tls(), self.logs()]) {
            absent_is_fine(fs::remove_dir_all(&path)).map_err(DevError::file("remove", &path))?;
        }
        // The settings go last: until then a purge that was interrupted can be repeated.
        for path in [self.client_file(), self.settings_file(), self.lock_file()] {
            absent_is_fine(fs::remove_file(&path)).map_err(DevError::file("remove", &path))?;
        }
        if settings.made_folder
            && let Err(error) = fs::remove_dir(&self.root)
            && error.kind() != ErrorKind::DirectoryNotEmpty
        {
            return Err(DevError::file("remove", &self.root)(error));
        }
        Ok(())
    }
}

fn absent_is_fine(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a folder that only its owner may enter, with its parents; one that exists stays as it is.
pub(crate) fn make_folder(path: &Path) -> Result<(), DevError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path).map_err(DevError::file("make", path))
}

/// Writes a whole file under a temporary name and puts it in place, with exactly `mode`.
///
/// # Durability
/// The content is on stable media before the name is.
pub(crate) fn write_file(path: &Path, mode: u32, content: &[u8]) -> Result<(), DevError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(mode)
            .open(&temporary)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(DevError::file("write", path))
}
