//! The files of the private server: their location, ownership, and creation on first use.
//!
//! Postgres refuses to run as root. If OmniLink runs as root, the server runs as the user `postgres`, which must therefore be able to
//! reach the files. A data directory that is private to root gets that user's group and mode 0710, so that the user can traverse it
//! but not list it. If the user cannot reach it even then (below `/root`, for example), the files go to
//! `/var/lib/omnilink/postgres-{hash of the data directory's path}`, and `{data_dir}/postgres` becomes a symlink to that directory.
//! Permissions of other parent directories are never changed.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::Engine as _;

use super::{EmbeddedError, SUPERUSER, binaries::Binaries, io_error};

/// A marker file, written once all files of a new server are durable. Without it the files are created again: nothing is lost, because
/// all data in them comes from the log.
const CREATED_MARKER: &str = "made";
/// The parent of the server's directory if the user `postgres` cannot reach the data directory.
const FALLBACK_DIR: &str = "/var/lib/omnilink";
/// The longest path of a Unix socket, minus the file name that Postgres appends.
const SOCKET_DIR_MAX: usize = 107 - "/.s.PGSQL.65535".len();

/// Settings for a small machine. The user's own settings follow the `include` in `postgresql.conf`, and override these.
const SETTINGS: &str = "\
# Written by OmniLink at each start; your own settings belong in postgresql.conf, below the line that includes this file.
shared_buffers = 64MB
work_mem = 8MB
maintenance_work_mem = 32MB
effective_cache_size = 512MB
max_connections = 40
superuser_reserved_connections = 3
max_worker_processes = 2
max_parallel_workers_per_gather = 1
autovacuum_max_workers = 2
# Nothing replicates from here.
wal_level = minimal
max_wal_senders = 0
max_logical_replication_workers = 0
# Checkpoints are rare: after each, every page is logged in full once.
max_wal_size = 1GB
min_wal_size = 96MB
checkpoint_timeout = 15min
jit = off
log_timezone = 'UTC'
timezone = 'UTC'
log_line_prefix = '%m [%p] '
";

/// The user that the server runs as, if it is not OmniLink's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RunAs {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The files of one server. Holds the lock of their directory.
#[derive(Debug)]
pub(super) struct Cluster {
    /// The directory that holds everything else.
    pub(super) home: PathBuf,
    pub(super) binaries: Binaries,
    pub(super) run_as: Option<RunAs>,
    pub(super) password: String,
    pub(super) port: u16,
    /// The directory of the Unix socket. `None` if its path would be too long: the server then listens on loopback only.
    pub(super) socket_dir: Option<PathBuf>,
    _lock: File,
}

impl Cluster {
    /// Opens the server's files in a data directory, and creates them if there are none.
    pub(super) fn open(data_dir: &Path, found: &[Binaries]) -> Result<Self, EmbeddedError> {
        fs::create_dir_all(data_dir)
            .map_err(io_error(format!("creating {}", data_dir.display())))?;
        let data_dir = data_dir
            .canonicalize()
            .map_err(io_error(format!("entering {}", data_dir.display())))?;
        let run_as = run_as()?;
        let home = find_home(&data_dir, run_as)?;
        let lock = lock(&home)?;
        let version = fs::read_to_string(home.join("data/PG_VERSION")).ok();
        let binaries = match version.as_deref().map(str::trim) {
            None => found.first(),
            Some(version) => found.iter().find(|b| b.major.to_string() == version),
        };
        let Some(binaries) = binaries.cloned() else {
            return Err(EmbeddedError::OtherVersion {
                path: home,
                version: version.unwrap_or_default().trim().to_owned(),
            });
        };
        let socket_dir = home.join("run");
        let mut cluster = Self {
            socket_dir: (socket_dir.as_os_str().len() <= SOCKET_DIR_MAX).then_some(socket_dir),
            home,
            binaries,
            run_as,
            password: String::new(),
            port: 0,
            _lock: lock,
        };
        // A leftover server holds the port, and must be gone before a free port is searched.
        super::leftover::end_leftover(&cluster.data(), super::STOP_TIMEOUT);
        cluster.password = cluster.read_password()?;
        if !cluster.home.join(CREATED_MARKER).is_file() {
            cluster.create()?;
        }
        cluster.configure()?;
        cluster.port = cluster.find_port()?;
        Ok(cluster)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// A command that runs as the server's user.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some(RunAs { uid, gid }) = self.run_as {
            command.uid(uid).gid(gid);
        }
        // `/` is a directory that every user can enter. A separate process group keeps an interrupt at the terminal from reaching
        // the server.
        command
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null());
        command
    }

    /// Opens the server's log for appending. A log of more than 8 MiB is rotated to `log.before` first.
    pub(super) fn log(&self) -> io::Result<File> {
        let path = self.home.join("log");
        if fs::metadata(&path).is_ok_and(|m| m.len() > 8 << 20) {
            fs::rename(&path, self.home.join("log.before"))?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)
    }

    /// The last lines of the server's log, for error messages.
    pub(super) fn log_tail(&self) -> String {
        let text = fs::read(self.home.join("log")).unwrap_or_default();
        last_lines(&text)
    }

    fn read_password(&self) -> Result<String, EmbeddedError> {
        let path = self.home.join("password");
        if let Ok(password) = fs::read_to_string(&path)
            && !password.trim().is_empty()
        {
            return Ok(password.trim().to_owned());
        }
        let password =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>());
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{password}"))
            .and_then(|()| self.chown_to_server(&path))
            .map_err(io_error(format!("writing {}", path.display())))?;
        // A server created with another password cannot be used.
        let _ = fs::remove_file(self.home.join(CREATED_MARKER));
        Ok(password)
    }

    /// Runs `initdb`. The files are synced to disk in the background, in parallel with the first start.
    fn create(&self) -> Result<(), EmbeddedError> {
        let data = self.data();
        if data.exists() {
            fs::remove_dir_all(&data).map_err(io_error(format!("removing {}", data.display())))?;
        }
        fs::create_dir(&data)
            .and_then(|()| fs::set_permissions(&data, fs::Permissions::from_mode(0o700)))
            .and_then(|()| self.chown_to_server(&data))
            .map_err(io_error(format!("creating {}", data.display())))?;
        // With the locale `C`, `lower()` and similar functions only handle ASCII; not every system has `C.UTF-8`.
        let output = self.initdb(&data, "C.UTF-8")?;
        if !output.status.success() {
            let output = self.initdb(&data, "C")?;
            if !output.status.success() {
                return Err(EmbeddedError::Failed {
                    program: "initdb",
                    output: last_lines(&[output.stdout, output.stderr].concat()),
                });
            }
        }
        let conf = data.join("postgresql.conf");
        OpenOptions::new()
            .append(true)
            .open(&conf)
            .and_then(|mut file| {
                writeln!(
                    file,
                    "\ninclude_if_exists = 'omnilink.conf'\n# Your own settings:"
                )
            })
            .map_err(io_error(format!("writing {}", conf.display())))?;
        let mut sync = self.command(self.binaries.program("initdb"));
        sync.arg("--sync-only")
            .arg("-D")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let marker = self.home.join(CREATED_MARKER);
        std::thread::Builder::new()
            .name("postgres-sync".to_owned())
            .spawn(move || {
                // If syncing fails there is no marker, and the next start creates the files again.
                if sync.status().is_ok_and(|s| s.success()) {
                    let _ = File::create(marker).and_then(|f| f.sync_all());
                }
            })
            .map_err(io_error("starting a thread"))?;
        Ok(())
    }

    fn initdb(&self, data: &Path, locale: &str) -> Result<std::process::Output, EmbeddedError> {
        self.command(self.binaries.program("initdb"))
            .arg("-D")
            .arg(data)
            .args(["-U", SUPERUSER, "--auth=scram-sha-256", "--encoding=UTF8"])
            .arg(format!("--locale={locale}"))
            .args(["--no-sync", "--no-instructions"])
            .arg(format!("--pwfile={}", self.home.join("password").display()))
            .output()
            .map_err(io_error("running initdb"))
    }

    fn configure(&self) -> Result<(), EmbeddedError> {
        let path = self.data().join("omnilink.conf");
        let mut settings = SETTINGS.to_owned();
        if self.binaries.major >= 15 && self.accepts("wal_compression", "lz4") {
            settings.push_str("wal_compression = lz4\n");
        }
        if fs::read_to_string(&path).is_ok_and(|current| current == settings) {
            return Ok(());
        }
        fs::write(&path, settings)
            .and_then(|()| self.chown_to_server(&path))
            .map_err(io_error(format!("writing {}", path.display())))
    }

    /// Whether this build of Postgres accepts a value of a setting.
    fn accepts(&self, name: &str, value: &str) -> bool {
        self.command(self.binaries.program("postgres"))
            .arg("-D")
            .arg(self.data())
            .args(["-c", &format!("{name}={value}"), "-C", name])
            .output()
            .is_ok_and(|output| output.status.success())
    }

    /// The port of the previous start if it is free, otherwise another free port.
    fn find_port(&self) -> Result<u16, EmbeddedError> {
        let path = self.home.join("port");
        let last = fs::read_to_string(&path)
            .ok()
            .and_then(|p| p.trim().parse::<u16>().ok());
        if let Some(port) = last
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            return Ok(port);
        }
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|l| l.local_addr())
            .map_err(io_error("finding a free port"))?
            .port();
        fs::write(&path, format!("{port}\n"))
            .map_err(io_error(format!("writing {}", path.display())))?;
        Ok(port)
    }

    /// Gives a file to the user that the server runs as.
    fn chown_to_server(&self, path: &Path) -> io::Result<()> {
        match self.run_as {
            Some(RunAs { uid, gid }) => chown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }
}

/// The last 8 non-empty lines of a program's output.
fn last_lines(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// The user that the server runs as; `None` for OmniLink's own user.
fn run_as() -> Result<Option<RunAs>, EmbeddedError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let mut users = String::new();
    // If the file cannot be read, no user is found.
    let _ = File::open("/etc/passwd").and_then(|mut f| f.read_to_string(&mut users));
    users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&"postgres"))
        .and_then(|fields| {
            Some(RunAs {
                uid: fields.get(2)?.parse().ok()?,
                gid: fields.get(3)?.parse().ok()?,
            })
        })
        .map(Some)
        .ok_or(EmbeddedError::NoUser)
}

/// The directory of the server's files; creates it if needed.
fn find_home(data_dir: &Path, run_as: Option<RunAs>) -> Result<PathBuf, EmbeddedError> {
    let inside = data_dir.join("postgres");
    let Some(user) = run_as else {
        return create_home(&inside, None);
    };
    let is_link = inside.symlink_metadata().is_ok_and(|m| m.is_symlink());
    if !is_link && (can_enter(data_dir, user) || grant_traversal(data_dir, user)) {
        let home = create_home(&inside, run_as)?;
        return if can_enter(&home, user) {
            Ok(home)
        } else {
            Err(EmbeddedError::Inaccessible(home))
        };
    }
    // Derived from the path, not read from the link: a copied data directory must not share the server of the original.
    let name = xxhash_rust::xxh3::xxh3_64(data_dir.as_os_str().as_encoded_bytes());
    let home = create_home(
        &Path::new(FALLBACK_DIR).join(format!("postgres-{name:016x}")),
        run_as,
    )?;
    if !can_enter(&home, user) {
        return Err(EmbeddedError::Inaccessible(home));
    }
    if fs::read_link(&inside).ok().as_deref() != Some(home.as_path()) {
        tracing::info!(
            home = %home.display(),
            "the user postgres cannot enter the data directory: the embedded Postgres is stored elsewhere"
        );
        // There may be no old link.
        let _ = fs::remove_file(&inside);
        symlink(&home, &inside).map_err(io_error(format!("linking {}", inside.display())))?;
    }
    Ok(home)
}

/// Lets the user's group traverse a data directory that is private to OmniLink's user (mode 0700 → 0710). Reverts the change and
/// returns false if the user still cannot enter, because of a parent directory.
fn grant_traversal(data_dir: &Path, user: RunAs) -> bool {
    let Ok(before) = fs::metadata(data_dir) else {
        return false;
    };
    let is_private =
        before.uid() == rustix::process::geteuid().as_raw() && before.mode() & 0o777 == 0o700;
    let change = |group, mode| {
        chown(data_dir, None, Some(group))
            .and_then(|()| fs::set_permissions(data_dir, fs::Permissions::from_mode(mode)))
    };
    if !is_private || change(user.gid, 0o710).is_err() {
        return false;
    }
    let can_enter = can_enter(data_dir, user);
    if !can_enter {
        // The same change succeeded a moment ago.
        let _ = change(before.gid(), before.mode() & 0o7777);
    }
    can_enter
}

fn create_home(home: &Path, run_as: Option<RunAs>) -> Result<PathBuf, EmbeddedError> {
    let run = home.join("run");
    let create = || -> io::Result<()> {
        fs::create_dir_all(&run)?;
        if let Some(RunAs { uid, gid }) = run_as
            && fs::metadata(&run)?.uid() != uid
        {
            chown(&run, Some(uid), Some(gid))?;
        }
        fs::set_permissions(home, fs::Permissions::from_mode(0o755))?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700))
    };
    create().map_err(io_error(format!("creating {}", home.display())))?;
    home.canonicalize()
        .map_err(io_error(format!("entering {}", home.display())))
}

/// Whether the user can enter a directory. It is tried with a process, because mode bits do not tell everything (ACLs, mounts).
fn can_enter(directory: &Path, user: RunAs) -> bool {
    Command::new("/bin/sh")
        .args(["-c", "cd \"$0\"/."])
        .arg(directory)
        .uid(user.uid)
        .gid(user.gid)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn lock(home: &Path) -> Result<File, EmbeddedError> {
    let path = home.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_error(format!("opening {}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse(home.to_owned())),
        Err(TryLockError::Error(e)) => Err(io_error(format!("locking {}", path.display()))(e)),
    }
}
