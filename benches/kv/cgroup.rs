//! A control group with a limit of memory, of version 1 or 2, whichever the machine has, by plain writes to its file system.
//! Pages that the system keeps of files count as well, and are let go of when the limit is near; what is a process's own cannot be.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The last process may still be going.
const EMPTY_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A group, removed together with this, after the processes in it have ended.
pub(crate) struct Group {
    version: Version,
    path: PathBuf,
}

impl Group {
    /// A group that may use so many bytes; or why there is none.
    pub(crate) fn new(limit_bytes: u64) -> Result<Group, String> {
        let (version, root) = root().ok_or("no control groups with memory are mounted")?;
        let path = root.join(format!("lumen-large-{}", std::process::id()));
        let failed = |what: &Path| {
            let what = what.display().to_string();
            move |error: std::io::Error| format!("{what}: {error}")
        };
        if version == Version::Two {
            // Fails where it is so already, or may not be; then the limit's file is or is not there.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        fs::create_dir(&path).map_err(failed(&path))?;
        let group = Group { version, path };
        let (limit, swap) = match version {
            Version::One => ("memory.limit_in_bytes", ("memory.memsw.limit_in_bytes", limit_bytes)),
            Version::Two => ("memory.max", ("memory.swap.max", 0)),
        };
        let limit = group.path.join(limit);
        fs::write(&limit, limit_bytes.to_string()).map_err(failed(&limit))?;
        // Where there is no swap there is no such file.
        let _ = fs::write(group.path.join(swap.0), swap.1.to_string());
        Ok(group)
    }

    /// A command that runs a program in it, and is the program's own process.
    pub(crate) fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
            .arg(self.path.join("cgroup.procs"))
            .arg(program);
        command
    }

    /// What it is called.
    pub(crate) fn name(&self) -> String {
        let version = if self.version == Version::One { 1 } else { 2 };
        format!("cgroup v{version}, {}", self.path.display())
    }

    /// The most bytes that were in use at once, pages of files included.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.number(if self.version == Version::One { "memory.max_usage_in_bytes" } else { "memory.peak" })
    }

    /// Bytes that are the processes' own now.
    pub(crate) fn own_bytes(&self) -> u64 {
        self.field("memory.stat", if self.version == Version::One { "rss" } else { "anon" })
    }

    /// Processes that were killed for lack of memory.
    pub(crate) fn kills(&self) -> u64 {
        self.field(
            if self.version == Version::One { "memory.oom_control" } else { "memory.events" },
            "oom_kill",
        )
    }

    fn number(&self, file: &str) -> u64 {
        fs::read_to_string(self.path.join(file)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    fn field(&self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let late = Instant::now() + EMPTY_TIME_MAX;
        while fs::remove_dir(&self.path).is_err() {
            if Instant::now() > late {
                eprintln!("{} could not be removed", self.path.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Where groups with a limit of memory are made.
fn root() -> Option<(Version, PathBuf)> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mounts =
        || mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|words| words.len() > 3);
    let one =
        mounts().find(|words| words[2] == "cgroup" && words[3].split(',').any(|option| option == "memory"));
    if let Some(words) = one {
        return Some((Version::One, PathBuf::from(words[1])));
    }
    let has_memory = |words: &Vec<&str>| {
        let controllers =
            fs::read_to_string(Path::new(words[1]).join("cgroup.controllers")).unwrap_or_default();
        words[2] == "cgroup2" && controllers.split_whitespace().any(|name| name == "memory")
    };
    mounts().find(has_memory).map(|words| (Version::Two, PathBuf::from(words[1])))
}
