//! Takes from this process everything that a query does not need, before it reads a word of one.
//!
//! Invariants: afterwards 1. files can be read below one folder, if any, and written nowhere; 2. there is no network, no
//! other program, no other process; 3. memory and processor time have an end, set by the kernel. What the kernel cannot
//! take away is an error: without the sandbox there are no queries.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

/// Memory beside what DuckDB counts: the program itself, stacks, buffers, the tables while they are read.
const BESIDE_BYTES: u64 = 1 << 30;
const FILES_MAX: u64 = 1024;

/// What a process may use.
pub struct Limits {
    /// Memory of the query.
    pub memory_bytes: u64,
    /// Seconds of processor time; none for work that lasts as long as there is some.
    pub cpu_seconds: Option<u64>,
}

/// Locks this process in. No thread must have been started yet.
///
/// **Takes** the folder that may be read, and that which may be written.
/// **Errors** are sentences; then the process must not go on.
pub fn enter(readable: Option<&Path>, writable: Option<&Path>, limits: &Limits) -> Result<(), String> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(format!("{threads} threads are there already; what is taken from one they would keep"));
    }
    // When the machine runs out of memory this goes first, not the server. Where that cannot be said the rest holds all the same.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    resources(writable.is_some(), limits)?;
    files(readable, writable)?;
    calls(writable.is_some())
}

fn resources(writes: bool, limits: &Limits) -> Result<(), String> {
    let memory = limits.memory_bytes.saturating_add(BESIDE_BYTES);
    let all = [
        Some((Resource::Data, memory)),
        Some((Resource::Core, 0)),
        (!writes).then_some((Resource::Fsize, 0)),
        Some((Resource::Nofile, FILES_MAX)),
    ];
    for (resource, n) in all.into_iter().flatten() {
        let limit = Rlimit { current: Some(n), maximum: Some(n) };
        setrlimit(resource, limit).map_err(|e| format!("cannot limit {resource:?}: {e}"))?;
    }
    let Some(seconds) = limits.cpu_seconds else { return Ok(()) };
    // The first limit ends it with SIGXCPU, which nothing else does; only the second with SIGKILL.
    let limit = Rlimit { current: Some(seconds), maximum: Some(seconds.saturating_add(1)) };
    setrlimit(Resource::Cpu, limit).map_err(|e| format!("cannot limit the processor time: {e}"))
}

fn files(readable: Option<&Path>, writable: Option<&Path>) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| format!("cannot close off the file system (Landlock): {e}");
    let abi = ABI::V6;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .map_err(|e| text(&e))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|r| r.handle_access(AccessNet::from_all(abi)))
        .and_then(|r| r.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .map_err(|e| text(&e))?;
    let reads = AccessFs::from_read(ABI::V1) & !AccessFs::Execute;
    let writes = reads | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::MakeDir;
    let mut ruleset = ruleset;
    for (folder, access) in readable.map(|f| (f, reads)).into_iter().chain(writable.map(|f| (f, writes))) {
        let fd = PathFd::new(folder).map_err(|e| text(&e))?;
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access)).map_err(|e| text(&e))?;
    }
    let status = ruleset.restrict_self().map_err(|e| text(&e))?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(text(&"the kernel has it not or it is off"));
    }
    Ok(())
}

/// System calls that reach outside: answered with EPERM.
const FORBIDDEN: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    libc::SYS_memfd_create,
    libc::SYS_open_by_handle_at,
    libc::SYS_setrlimit,
    // What Landlock leaves to others: who owns a file and when it was changed, and shortening it, in its first versions.
    libc::SYS_truncate,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
    libc::SYS_utimensat,
    // Signals with a word to go with them.
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_process_madvise,
];
/// Calls of x86-64's second ABI are those of the first from here on.
#[cfg(target_arch = "x86_64")]
const X32_CALLS: u32 = 0x4000_0000;

fn calls(writes: bool) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| format!("cannot close off system calls (seccomp): {e}");
    let arch = std::env::consts::ARCH.try_into().map_err(|e| text(&e))?;
    let install = |rules, action: SeccompAction| -> Result<(), String> {
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).map_err(|e| text(&e))?;
        let program: BpfProgram = filter.try_into().map_err(|e| text(&e))?;
        seccompiler::apply_filter(&program).map_err(|e| text(&e))
    };
    #[cfg(target_arch = "x86_64")]
    seccompiler::apply_filter(&second_abi()).map_err(|e| text(&e))?;
    // Their arguments lie in memory, where no filter looks. The C library falls back to `clone` and `openat`.
    let unseen = [libc::SYS_clone3, libc::SYS_openat2].map(|call| (call, Vec::new()));
    install(unseen.into_iter().collect(), SeccompAction::Errno(libc::ENOSYS as u32))?;
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        FORBIDDEN.iter().map(|call| (*call, Vec::new())).collect();
    let rule = |argument, len, op, value| {
        let condition = SeccompCondition::new(argument, len, op, value);
        condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(|e| text(&e))
    };
    // Threads yes, processes no.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![rule(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(thread), 0)?]);
    // Changing one's own or anybody's limits: the second argument is where new ones stand, the third is not looked at.
    rules.insert(libc::SYS_prlimit64, vec![rule(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?]);
    // A process may end itself by a signal.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, own)?]);
    if !writes {
        let bits = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC].map(|bit| bit as u64);
        let to_write = |argument| -> Result<Vec<SeccompRule>, String> {
            bits.iter().map(|b| rule(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(*b), *b)).collect()
        };
        rules.insert(libc::SYS_openat, to_write(2)?);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_open, to_write(1)?);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_creat, Vec::new());
    }
    install(rules, SeccompAction::Errno(libc::EPERM as u32))
}

/// A filter that knows no calls of the second ABI, whose numbers the other filters would take for none of theirs.
#[cfg(target_arch = "x86_64")]
fn second_abi() -> BpfProgram {
    let step = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    vec![
        // The number of the call lies at the beginning of what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32_CALLS),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    /// What the process locked in tries; run by the test below in a process of its own.
    #[test]
    #[ignore = "locks its process in: the other test runs it"]
    fn locked_in() {
        let readable = std::env::var_os("QUIVER_TEST_READABLE").expect("a folder");
        let readable = Path::new(&readable);
        let block = &readable.join("block");
        files(Some(readable), None).expect("Landlock");
        calls(false).expect("seccomp");
        let inside = std::fs::read_to_string(readable.join("block")).map_err(|e| e.kind());
        assert_eq!(inside.as_deref(), Ok("samples"));
        let denied = |what: &str, error: Option<std::io::Error>| {
            let kind = error.unwrap_or_else(|| panic!("{what} is possible")).kind();
            assert_eq!(kind, std::io::ErrorKind::PermissionDenied, "{what}");
        };
        denied("reading elsewhere", std::fs::read("/etc/passwd").err());
        denied("reading by another name", std::fs::read(readable.join("../../etc/passwd")).err());
        denied("a link outward", std::fs::read(readable.join("link")).err());
        denied("listing", std::fs::read_dir("/").err());
        denied("its own memory", std::fs::File::open("/proc/self/mem").err());
        denied("writing a block", std::fs::write(readable.join("block"), "x").err());
        denied("a new file", std::fs::write(readable.join("new"), "x").err());
        denied("a new folder", std::fs::create_dir(readable.join("folder")).err());
        denied("shortening", std::fs::OpenOptions::new().read(true).custom_flags(libc::O_TRUNC).open(block).err());
        denied("other rights", std::fs::set_permissions(block, std::fs::Permissions::from_mode(0o777)).err());
        denied("another owner", std::os::unix::fs::chown(block, Some(0), None).err());
        let inside = std::fs::File::open(block).expect("it can be read");
        denied("another time", inside.set_modified(std::time::UNIX_EPOCH).err());
        denied("other rights of what is open", inside.set_permissions(std::fs::Permissions::from_mode(0o777)).err());
        let noted = rustix::fs::setxattr(block, "user.note", b"x", rustix::fs::XattrFlags::empty());
        assert_eq!(noted, Err(rustix::io::Errno::PERM));
        let (flags, mode) = (rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
        let resolve = rustix::fs::ResolveFlags::empty();
        let opened = rustix::fs::openat2(rustix::fs::CWD, block, flags, mode, resolve);
        assert_eq!(opened.err(), Some(rustix::io::Errno::NOSYS));
        denied("removing", std::fs::remove_file(readable.join("block")).err());
        denied("TCP", std::net::TcpStream::connect("127.0.0.1:1").err());
        denied("listening", std::net::TcpListener::bind("127.0.0.1:0").err());
        denied("UDP", std::net::UdpSocket::bind("127.0.0.1:0").err());
        denied("a Unix socket", std::os::unix::net::UnixStream::pair().err());
        denied("a process", std::process::Command::new("/bin/true").status().err());
        let pid = rustix::process::getppid().expect("a parent");
        let killed = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
        assert_eq!(killed, Err(rustix::io::Errno::PERM));
        let more = Rlimit { current: Some(1 << 40), maximum: Some(1 << 40) };
        assert_eq!(setrlimit(Resource::Data, more), Err(rustix::io::Errno::PERM));
        // Threads are needed by what reads Parquet.
        assert_eq!(std::thread::spawn(|| 7).join().ok(), Some(7));
        println!("all of it is denied");
    }

    #[test]
    fn nothing_but_the_one_folder_is_within_reach() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("block"), "samples").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sandbox::tests::locked_in", "--ignored", "--nocapture", "--test-threads=1"])
            .env("QUIVER_TEST_READABLE", folder.path())
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.contains("all of it is denied"), "{out}\n{err}");
    }
}
