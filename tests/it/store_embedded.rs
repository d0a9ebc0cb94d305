//! The embedded Postgres: created, started, stopped, and recovered after a kill.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use omnilink::{
    embedded_postgres::{Embedded, EmbeddedError},
    store::Store,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::wait_until;

/// A folder that the user `postgres` can enter; `None` without Postgres binaries.
fn folder(runtime: &Runtime) -> Option<(TempDir, Embedded)> {
    let dir = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in("/var/tmp")
        .unwrap();
    match runtime.block_on(Embedded::start(dir.path())) {
        Ok(server) => Some((dir, server)),
        Err(EmbeddedError::NoBinaries | EmbeddedError::NoUser) => {
            eprintln!("SKIPPED: no Postgres is installed here");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn pid(dir: &Path) -> i32 {
    let text = fs::read_to_string(dir.join("postgres/data/postmaster.pid")).unwrap();
    text.lines().next().unwrap().trim().parse().unwrap()
}

fn alive(pid: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state
        .rsplit(')')
        .next()
        .is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

fn signal(pid: i32, name: &str) {
    assert!(
        Command::new("kill")
            .args(["-s", name, &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

async fn count(store: &Store) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM omnilink.kept")
        .fetch_one(store.pool())
        .await
}

#[test]
fn it_is_created_once_keeps_its_data_and_stops() {
    let runtime = Runtime::new().unwrap();
    let Some((dir, server)) = folder(&runtime) else {
        return;
    };
    runtime.block_on(async {
        let store = server.store();
        store.migrate().await.unwrap();
        sqlx::raw_sql("CREATE TABLE omnilink.kept AS SELECT generate_series(1, 100)")
            .execute(store.pool())
            .await
            .unwrap();
        // Over loopback with the password, as users connect.
        let url = server.url();
        assert_eq!(count(&Store::new(&url).unwrap()).await.unwrap(), 100);
        let wrong = url.replace("omnilink:", "omnilink:not");
        Store::new(&wrong).unwrap().health().await.unwrap_err();
        assert!(matches!(
            Embedded::start(dir.path()).await,
            Err(EmbeddedError::InUse(_))
        ));
    });
    assert_eq!(mode(&server.home().join("password")), 0o600);
    let (url, first) = (server.url(), pid(dir.path()));
    server.stop();
    assert!(!alive(first));

    wait_until("all files are on the disk", || {
        dir.path().join("postgres/made").exists()
    });
    let began = Instant::now();
    let server = runtime.block_on(Embedded::start(dir.path())).unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(server.url(), url, "port and password are kept");
    runtime.block_on(async {
        let store = server.store();
        assert_eq!(count(&store).await.unwrap(), 100);
        assert!(store.migrate().await.unwrap().ran.is_empty());
    });
    // It also stops on drop.
    let second = pid(dir.path());
    drop(server);
    wait_until("it stops", || !alive(second));
}

#[test]
fn a_killed_server_is_started_again() {
    let runtime = Runtime::new().unwrap();
    let Some((dir, server)) = folder(&runtime) else {
        return;
    };
    let store = server.store();
    runtime.block_on(store.health()).unwrap();
    let before = pid(dir.path());
    signal(before, "KILL");
    wait_until("it answers again", || {
        runtime.block_on(store.health()).is_ok() && pid(dir.path()) != before
    });
    server.stop();
}

#[test]
fn a_running_leftover_server_is_taken_over() {
    let runtime = Runtime::new().unwrap();
    let Some((dir, server)) = folder(&runtime) else {
        return;
    };
    wait_until("all files are on the disk", || {
        dir.path().join("postgres/made").exists()
    });
    server.stop();
    // As after a kill of the process: no pipe is held that would stop the server.
    let data = dir.path().join("postgres/data");
    let owner = fs::metadata(&data).unwrap().uid();
    let group = fs::metadata(&data).unwrap().gid();
    let postgres = fs::read_to_string(data.join("postmaster.opts")).unwrap();
    let program = postgres.split(' ').next().unwrap().to_owned();
    let port = fs::read_to_string(dir.path().join("postgres/port")).unwrap();
    let mut command = Command::new(program);
    command
        .arg("-D")
        .arg(&data)
        .args(["-p", port.trim(), "-c", "unix_socket_directories="])
        .current_dir("/");
    if is_root() {
        command.uid(owner).gid(group);
    }
    let mut left = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it runs", || {
        fs::read_to_string(data.join("postmaster.pid")).is_ok_and(|t| t.contains("ready"))
    });
    let old = pid(dir.path());
    let server = runtime.block_on(Embedded::start(dir.path())).unwrap();
    assert_ne!(pid(dir.path()), old);
    runtime.block_on(server.store().health()).unwrap();
    left.wait().unwrap();
    server.stop();

    // After SIGKILL of the server: a stale pid file, and perhaps child processes that still run.
    let server = runtime.block_on(Embedded::start(dir.path())).unwrap();
    let (old, stale) = (
        pid(dir.path()),
        fs::read_to_string(data.join("postmaster.pid")).unwrap(),
    );
    server.stop();
    fs::write(
        data.join("postmaster.pid"),
        stale.replace(&old.to_string(), "1"),
    )
    .unwrap();
    let server = runtime.block_on(Embedded::start(dir.path())).unwrap();
    runtime.block_on(server.store().health()).unwrap();
    server.stop();
}

/// Not a test: the process that [`it_stops_when_its_process_is_killed`] starts and kills.
#[test]
fn child() {
    let Some(dir) = std::env::var_os("OMNILINK_TEST_HOLD") else {
        return;
    };
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(Embedded::start(Path::new(&dir))).unwrap();
    fs::write(Path::new(&dir).join("holds"), server.url()).unwrap();
    std::thread::sleep(Duration::from_mins(1));
}

#[test]
fn it_stops_when_its_process_is_killed() {
    let runtime = Runtime::new().unwrap();
    let Some((dir, server)) = folder(&runtime) else {
        return;
    };
    wait_until("all files are on the disk", || {
        dir.path().join("postgres/made").exists()
    });
    server.stop();
    for wait in [true, false] {
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store_embedded::child"])
            .env("OMNILINK_TEST_HOLD", dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait_until("it holds a server", || dir.path().join("holds").exists());
        let held = pid(dir.path());
        holder.kill().unwrap();
        holder.wait().unwrap();
        if wait {
            wait_until("the server is gone", || !alive(held));
        }
        let server = runtime.block_on(Embedded::start(dir.path())).unwrap();
        runtime.block_on(server.store().health()).unwrap();
        assert!(!alive(held));
        fs::remove_file(dir.path().join("holds")).unwrap();
        server.stop();
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A folder that only its owner can enter, with a data folder inside.
fn private() -> (TempDir, std::path::PathBuf) {
    let private = fs::Permissions::from_mode(0o700);
    let dir = tempfile::Builder::new()
        .permissions(private.clone())
        .tempdir()
        .unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, private).unwrap();
    (dir, data)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

#[test]
fn a_private_data_directory_lets_the_server_through() {
    let runtime = Runtime::new().unwrap();
    if !is_root() || folder(&runtime).is_none() {
        return;
    }
    let (dir, data) = private();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let server = runtime.block_on(Embedded::start(&data)).unwrap();
    assert_eq!(server.home(), data.canonicalize().unwrap().join("postgres"));
    assert_eq!(mode(&data), 0o710);
    runtime.block_on(server.store().health()).unwrap();
    server.stop();
}

#[test]
fn a_data_directory_out_of_reach_gets_a_link() {
    let runtime = Runtime::new().unwrap();
    if !is_root() || folder(&runtime).is_none() {
        return;
    }
    let (_dir, data) = private();
    let server = runtime.block_on(Embedded::start(&data)).unwrap();
    let home = server.home().to_owned();
    assert!(home.starts_with("/var/lib/omnilink"), "{home:?}");
    assert_eq!(fs::read_link(data.join("postgres")).unwrap(), home);
    assert_eq!(mode(&data), 0o700, "nothing is opened in vain");
    runtime.block_on(server.store().health()).unwrap();
    server.stop();
    let server = runtime.block_on(Embedded::start(&data)).unwrap();
    assert_eq!(server.home(), home);
    server.stop();
    // On a busy machine the server is killed, and its child processes exit a little later.
    let gone = || fs::remove_dir_all(&home).is_ok() || !home.exists();
    assert!((0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        gone()
    }));
}
