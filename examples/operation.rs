//! A job as people read it.

use afterimage::{Job, Operation};

use crate::shown_time;

/// How far a job is that runs.
pub fn shown_progress(job: &Job) -> String {
    format!("{} of {}", job.progress.done, job.progress.total)
}

/// Prints a job, with its tasks and what can be done about it.
pub fn print_operation(operation: &Operation) {
    let Operation { job, actions, .. } = operation;
    let until = job.ended.map(|ended| format!(" to {}", shown_time(ended)));
    println!(
        "  {} ({}): {:?}, {}{}",
        job.kind.description(),
        job.subject,
        job.state,
        shown_time(job.started),
        until.unwrap_or_else(|| format!(", {}", shown_progress(job)))
    );
    for task in &job.tasks {
        println!("    {}: {:?}", task.name, task.state);
    }
    if let Some(error) = &job.error {
        println!("    {error}");
        for cause in error.code.causes() {
            println!("    possible cause: {cause}");
        }
        println!("    recommended: {}", error.code.recommended_action());
    }
    if !actions.is_empty() {
        println!("    allowed: {actions:?}");
    }
}
