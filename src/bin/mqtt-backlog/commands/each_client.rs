//! Work on several clients.

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// Works on one client after the other, and sums up their ends; `None` is the end of one with nothing to do.
///
/// If several are meant, one with a connected program is named and left, and the others are done.
pub fn for_each_client<T>(
    context: &mut Context,
    clients: impl ExactSizeIterator<Item = T>,
    mut work: impl FnMut(&mut Context, T) -> Result<Option<Exit>, Failure>,
) -> Result<Exit, Failure> {
    let is_one = clients.len() == 1;
    let mut total: Option<Exit> = None;
    for client in clients {
        let end = match work(context, client) {
            Err(Failure::Message(Exit::InUse, text)) if !is_one => {
                context.complain(&text);
                Some(Exit::Partial)
            }
            end => end?,
        };
        if let Some(exit) = end {
            total = Some(total.map_or(exit, |total| total.and(exit)));
        }
    }
    Ok(total.unwrap_or(Exit::Done))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn context() -> Context {
        let cli = Cli::try_parse_from(["mqtt-backlog", "list"]).expect("is valid");
        Context::new(&cli.global).expect("needs no network")
    }

    fn ends(ends: &[Result<Option<Exit>, Exit>]) -> (Result<Exit, Exit>, usize) {
        let mut context = context();
        let mut worked = 0;
        let failed = |failure| match failure {
            Failure::Message(exit, _) => exit,
            Failure::ClosedPipe => Exit::Done,
        };
        let result = for_each_client(&mut context, ends.iter().copied(), |_, end| {
            worked += 1;
            end.map_err(|exit| Failure::Message(exit, "x".to_owned()))
        });
        let result = result.and_then(|exit| context.finish(exit));
        (result.map_err(failed), worked)
    }

    #[test]
    fn connected_program_does_not_stop_others() {
        let done = Ok(Some(Exit::Done));
        let in_use = Err(Exit::InUse);
        assert_eq!(ends(&[done, in_use, done]), (Ok(Exit::Partial), 3));
        assert_eq!(ends(&[in_use, in_use]), (Ok(Exit::Partial), 2));
        assert_eq!(ends(&[in_use]), (Err(Exit::InUse), 1));
        let unavailable = Err(Exit::Unavailable);
        assert_eq!(ends(&[unavailable, done]), (Err(Exit::Unavailable), 1));
    }

    #[test]
    fn clients_with_nothing_to_do_do_not_count() {
        let (done, declined) = (Ok(Some(Exit::Done)), Ok(Some(Exit::Declined)));
        assert_eq!(ends(&[]), (Ok(Exit::Done), 0));
        assert_eq!(ends(&[Ok(None), declined]), (Ok(Exit::Declined), 2));
        assert_eq!(ends(&[done, Ok(None)]), (Ok(Exit::Done), 2));
        assert_eq!(ends(&[done, declined]), (Ok(Exit::Partial), 2));
    }
}
