//! The commands of the example `changelog`, from their arguments to their exit code.

mod arguments;
mod inspect;
pub(crate) mod keys;
mod make;
mod show;
mod states;
mod totals;
mod trace;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use afterimage_changelog::{ChangeLog, Error, Keys, open_log_with};
use anyhow::Result;
use clap::Parser;

use arguments::{Arguments, Command};
use keys::KeyRing;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Good,
    /// A log is damaged, or was never ended.
    Damaged,
    /// What was asked for cannot be done.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Good => Self::SUCCESS,
            Exit::Damaged => Self::from(1),
            Exit::Usage => Self::from(2),
        }
    }
}

/// Does what `arguments` say, the first of which is the program's name.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Exit {
    let done = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => execute(arguments, out),
        Err(help) if !help.use_stderr() => write!(out, "{help}")
            .map(|()| Exit::Good)
            .map_err(Into::into),
        Err(usage) => Err(usage.into()),
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(errors, "{}", told(&error));
        exit_of(&error)
    })
}

fn execute(arguments: Arguments, out: &mut dyn Write) -> Result<Exit> {
    let keys = KeyRing::read(&arguments.keys)?;
    match arguments.command {
        Command::Inspect {
            file,
            json,
            records,
        } => inspect::inspect(&file, keys.all(), (json, records), out),
        Command::Verify { files } => verify(&files, keys.all(), out),
        Command::Apply {
            files,
            to,
            undo,
            check,
        } => make::apply(&files, &to, undo.as_deref(), check, &keys, out),
        Command::Merge { files, out: to } => make::merge(&files, &to, &keys, out),
        Command::Convert(convert) => make::convert(&convert, &keys, out),
        Command::Salvage { file, out: to } => make::salvage(&file, &to, &keys, out),
        Command::Record {
            disk,
            from,
            out: to,
            states,
            compress,
        } => trace::record(&disk, &from, to, states, keys.options(compress), out),
    }
}

/// What is wrong and why, each cause once: most messages end in that of their cause.
fn told(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| {
        let cause = cause.to_string();
        match told.as_str() {
            "" => cause,
            said if said.ends_with(&cause) => told,
            said => format!("{said}: {cause}"),
        }
    })
}

/// Whether the log or the request is what is wrong.
fn exit_of(error: &anyhow::Error) -> Exit {
    let log = error.downcast_ref::<Error>().map(Error::cause);
    match log {
        Some(
            Error::Damaged { .. }
            | Error::NotSealed
            | Error::NotClosed
            | Error::UnknownFormat
            | Error::UnknownHrlVersion { .. }
            | Error::NewerVersion { .. },
        ) => Exit::Damaged,
        _ => Exit::Usage,
    }
}

/// Proves all of them, and says of each whether it is sound.
fn verify(files: &[PathBuf], keys: &Keys, out: &mut dyn Write) -> Result<Exit> {
    let mut exit = Exit::Good;
    for path in files {
        match open_log_with(path, keys) {
            Ok(log) => writeln!(out, "{}: sound", log.path().display())?,
            Err(error) => {
                let error = anyhow::Error::from(error);
                if exit_of(&error) == Exit::Usage {
                    return Err(error);
                }
                exit = Exit::Damaged;
                writeln!(out, "{}", told(&error))?;
            }
        }
    }
    Ok(exit)
}
