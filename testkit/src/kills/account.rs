//! What was accepted against what arrived.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    process::ExitStatus,
};

use super::{
    LAST,
    life::was_killed,
    program::{TOPIC, exit},
};
use crate::crash::{End, Inbound, Kill, Versions, is_whole, lines, qos};

/// What became of the messages of a life.
#[derive(Debug, Default)]
pub struct Account {
    pub killed: usize,
    /// Runs that ended by themselves, since a write was broken off.
    pub given_up: usize,
    /// By QoS.
    pub accepted: [usize; 3],
    pub lost: [Vec<String>; 3],
    /// At QoS 1, where it may be.
    pub again: usize,
    /// At QoS 2; at QoS 0 too, which nobody may send again.
    pub twice: Vec<String>,
    pub altered: Vec<String>,
    /// Arrived though the program did not live to hear that it was accepted: at most one a run.
    pub unheard: usize,
    pub sent: usize,
    pub inbound: Inbound,
    /// A run that ended otherwise than it may.
    pub trouble: Option<String>,
}

impl Account {
    pub fn of(
        folder: &Path,
        arrived: &[(String, Vec<u8>)],
        versions: Versions,
        sent: &[String],
        ends: &[ExitStatus],
    ) -> Self {
        let has_given_up = |end: &ExitStatus| end.code() == Some(exit::GIVEN_UP);
        let may_end = |end: &ExitStatus| was_killed(*end) || has_given_up(end);
        let (last, before) = ends.split_last().expect("a run");
        let wrong = before.iter().find(|end| !may_end(end));
        let mut account = Self {
            killed: ends.iter().filter(|end| was_killed(**end)).count(),
            given_up: ends.iter().filter(|end| has_given_up(end)).count(),
            sent: sent.len(),
            trouble: wrong
                .or((!last.success()).then_some(last))
                .map(ToString::to_string),
            ..Self::default()
        };
        let mut arrivals: HashMap<String, usize> = HashMap::new();
        for (topic, payload) in arrived {
            let text = String::from_utf8_lossy(payload).into_owned();
            if text == LAST {
                continue;
            }
            if topic != TOPIC || !is_whole(&text) {
                let shown = format!("{topic} {}", payload.escape_ascii());
                account.altered.push(shown);
            }
            *arrivals.entry(text).or_default() += 1;
        }
        for text in lines(&folder.join("ledger")) {
            let times = arrivals.remove(&text).unwrap_or_default();
            account.accepted[qos(&text)] += 1;
            if times == 0 {
                account.lost[qos(&text)].push(name(&text));
            }
            account.count_again(&text, times);
        }
        for (text, times) in arrivals {
            if is_whole(&text) {
                account.unheard += 1;
                account.count_again(&text, times);
            }
        }
        let ends: Vec<End> = ends
            .iter()
            .map(|status| End {
                kill: Kill::Never,
                done: status.success(),
            })
            .collect();
        let sent: Vec<String> = sent.iter().cloned().chain([LAST.to_owned()]).collect();
        account.inbound = Inbound::account(versions, folder, &ends, &sent, &HashSet::new());
        account
    }

    fn count_again(&mut self, text: &str, times: usize) {
        if times > 1 {
            if qos(text) == 1 {
                self.again += times - 1;
            } else {
                self.twice.push(format!("{} {times} times", name(text)));
            }
        }
    }

    /// Whether everything is as promised.
    pub fn is_clean(&self) -> bool {
        let [_, lost1, lost2] = &self.lost;
        let Inbound { lost, twice, .. } = &self.inbound;
        let wrong = [lost1, lost2, &self.twice, &self.altered, lost, twice];
        wrong.iter().all(|messages| messages.is_empty())
            && self.unheard <= self.killed + self.given_up
            && self.trouble.is_none()
    }
}

fn name(text: &str) -> String {
    text.split('|').next().unwrap_or_default().to_owned()
}
