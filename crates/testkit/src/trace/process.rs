//! The process: started and traced by a thread of its own, since ptrace knows threads, not processes.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::call::{self, Call};
use super::{Verdict, Watch};

/// A process that is traced until its end.
pub struct Traced {
    pid: Pid,
    tracer: Option<JoinHandle<ExitStatus>>,
    ended: Option<ExitStatus>,
}

/// Stops itself, and goes on as the program that its arguments name.
const WAITING: &str = "kill -STOP $$; exec \"$0\" \"$@\"";

impl Traced {
    /// Starts `command` (its program, arguments, environment; its input and output as `redirect` has them).
    ///
    /// # Errors
    /// What starting or ptrace say.
    pub fn spawn(
        command: &Command,
        redirect: impl FnOnce(&mut Command) + Send + 'static,
        watch: Watch,
    ) -> io::Result<Self> {
        let mut waiting = Command::new("sh");
        waiting.arg("-c").arg(WAITING).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => waiting.env(name, value),
                None => waiting.env_remove(name),
            };
        }
        redirect(&mut waiting);
        let (tell, told) = mpsc::channel();
        let tracer = std::thread::spawn(move || match start(&mut waiting, watch.with_children) {
            Ok(pid) => {
                // Whoever started this waits for it.
                let _ = tell.send(Ok(pid));
                Tracer { leader: pid, watch, inside: HashMap::new() }.run()
            }
            Err(error) => {
                let _ = tell.send(Err(error));
                ExitStatus::from_raw(0)
            }
        });
        let pid = told.recv().map_err(io::Error::other)??;
        Ok(Self { pid, tracer: Some(tracer), ended: None })
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        let over = self.tracer.as_ref().is_none_or(JoinHandle::is_finished);
        over.then(|| self.wait())
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        if let Some(tracer) = self.tracer.take() {
            self.ended = Some(tracer.join().unwrap());
        }
        self.ended.unwrap()
    }

    /// Kills it; [`Traced::wait`] has its end.
    pub fn kill(&self) {
        // That it has ended already is as good.
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}

/// Starts the waiting shell, and holds it.
fn start(waiting: &mut Command, with_children: bool) -> io::Result<Pid> {
    // Only the tracer waits for it: dropped, a `Child` does nothing.
    let child = waiting.spawn()?;
    let pid = Pid::from_raw(child.id().try_into().map_err(io::Error::other)?);
    match waitpid(pid, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::__WNOTHREAD))? {
        WaitStatus::Stopped(..) => {}
        ended => return Err(io::Error::other(format!("the shell did not wait: {ended:?}"))),
    }
    let mut options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    if with_children {
        options |= Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
    }
    ptrace::seize(pid, options)?;
    kill(pid, Signal::SIGCONT)?;
    Ok(pid)
}

/// A thread within a call.
enum Inside {
    /// One that nobody asks about.
    Other,
    Made(Call),
    Failing(Errno),
}

struct Tracer {
    leader: Pid,
    watch: Watch,
    inside: HashMap<Pid, Inside>,
}

impl Tracer {
    fn run(mut self) -> ExitStatus {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            // Threads that are killed are gone before they can be told anything: what fails here has ended.
            let _ = match waitpid(None, Some(flags)) {
                Ok(WaitStatus::PtraceSyscall(thread)) => self.call(thread),
                Ok(WaitStatus::PtraceEvent(thread, Signal::SIGTRAP, libc::PTRACE_EVENT_EXEC)) => {
                    ptrace::syscall(thread, None)
                }
                Ok(WaitStatus::PtraceEvent(thread, ..)) => ptrace::syscall(thread, None),
                Ok(WaitStatus::Stopped(thread, signal)) => ptrace::syscall(thread, signal),
                Ok(WaitStatus::Exited(thread, code)) if thread == self.leader => {
                    return ExitStatus::from_raw(code << 8);
                }
                Ok(WaitStatus::Signaled(thread, signal, _)) if thread == self.leader => {
                    return ExitStatus::from_raw(signal as i32);
                }
                Ok(ended) => {
                    ended.pid().and_then(|thread| self.inside.remove(&thread));
                    Ok(())
                }
                Err(Errno::EINTR) => Ok(()),
                Err(error) => panic!("the tracer lost its process: {error}"),
            };
        }
    }

    /// A thread enters a call, or leaves it.
    fn call(&mut self, thread: Pid) -> nix::Result<()> {
        match self.inside.remove(&thread) {
            None => self.enter(thread)?,
            Some(Inside::Other) => {}
            Some(Inside::Made(call)) => {
                let result = ptrace::getregs(thread)?.rax.cast_signed();
                if result >= 0 {
                    self.watch.after(&call);
                }
            }
            Some(Inside::Failing(errno)) => {
                let mut registers = ptrace::getregs(thread)?;
                registers.rax = (-(errno as i64)).cast_unsigned();
                ptrace::setregs(thread, registers)?;
            }
        }
        ptrace::syscall(thread, None)
    }

    fn enter(&mut self, thread: Pid) -> nix::Result<()> {
        let mut registers = ptrace::getregs(thread)?;
        let call = call::decode(thread, &registers);
        let verdict = call.as_ref().map_or(Verdict::Go, |call| self.watch.before(call));
        let inside = match (verdict, call) {
            (Verdict::Kill, _) => {
                kill(self.leader, Signal::SIGKILL)?;
                Inside::Other
            }
            (Verdict::Fail(errno), _) => {
                // No such call: the kernel does nothing.
                registers.orig_rax = u64::MAX;
                ptrace::setregs(thread, registers)?;
                Inside::Failing(errno)
            }
            (Verdict::Go, Some(call)) => Inside::Made(call),
            (Verdict::Go, None) => Inside::Other,
        };
        self.inside.insert(thread, inside);
        Ok(())
    }
}
