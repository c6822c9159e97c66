//! Whatever Redis does, the program goes on publishing, nothing is lost or doubled, no call waits long, and Redis is brought up to
//! date by itself.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use testkit::{
    LIMIT,
    faults::{self, FAULTS, Fault, Keeper, Report, Setting},
};

type Run = (&'static Fault, Setting, Keeper);
type Ran = (Run, Result<Report, String>);

/// As many at a time as there are cores, told of in their order.
fn run_all(runs: &[Run]) -> Vec<Ran> {
    let workers = thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut ran = Vec::new();
        while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (fault, setting, keeper) = *run;
            ran.push((*run, faults::run_apart(fault, setting, keeper)));
        }
        ran
    };
    let mut ran: Vec<Ran> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("no panic"))
            .collect()
    });
    let place = |fault: &Fault| FAULTS.iter().position(|one| one.name == fault.name);
    ran.sort_by_key(|((fault, setting, _), _)| {
        (
            place(fault),
            Setting::ALL.iter().position(|one| one == setting),
        )
    });
    ran
}

fn all(setting: Setting) -> impl Iterator<Item = Run> {
    let possible = move |fault: &&Fault| setting != Setting::Killed || fault.can_be_killed_in;
    FAULTS
        .iter()
        .filter(possible)
        .map(move |fault| (fault, setting, Keeper::Ours))
}

/// What is wrong with it, if anything.
fn wrong(fault: &Fault, setting: Setting, report: &Report) -> Option<&'static str> {
    let lives = setting != Setting::Killed;
    let tells = fault
        .kinds
        .iter()
        .any(|kind| report.told.iter().any(|told| told == kind));
    let must_tell = lives
        && !fault.kinds.is_empty()
        && !(fault.may_pass_unnoticed && setting == Setting::Publishing);
    [
        (report.published == 0, "nothing was published"),
        (!report.lost.is_empty(), "messages are lost"),
        (!report.twice.is_empty(), "messages came twice"),
        (report.altered > 0, "payloads are altered"),
        (report.refused > 0 && lives, "messages were refused"),
        // Far more than the deadline: the machine may be busy.
        (report.longest > LIMIT / 4, "a call took long"),
        (report.left > 0, "records are left"),
        (report.counted_lost > 0, "records are counted as lost"),
        (
            setting == Setting::Publishing && !report.connected,
            "the connection to the broker was lost",
        ),
        (must_tell && !tells, "it was not told as what it is"),
        (
            must_tell && report.log.is_empty(),
            "the log does not say it",
        ),
    ]
    .into_iter()
    .find_map(|(is_so, what)| is_so.then_some(what))
}

/// All of them with a program that publishes; of the other settings some, since all would take minutes: `scripts/faults`.
#[test]
fn nothing_is_lost_and_nobody_waits_whatever_redis_does() {
    let some = |setting, names: &'static [&'static str]| {
        all(setting).filter(move |(fault, ..)| names.iter().any(|name| fault.name.contains(name)))
    };
    let runs: Vec<Run> = all(Setting::Publishing)
        .filter(|(fault, ..)| !fault.name.contains("ten seconds"))
        .chain(some(Setting::BrokerAway, &["older contents", "maxmemory"]))
        .chain(some(Setting::Idle, &["back empty", "FLUSHALL"]))
        .chain(some(
            Setting::Killed,
            &["with its AOF", "stopped", "READONLY"],
        ))
        .collect();
    assert_eq!(runs.len(), FAULTS.len() - 1 + 7, "a name is not there");
    for ((fault, setting, _), report) in run_all(&runs) {
        let about = format!("{}, {}", fault.name, setting.name());
        let report = report.unwrap_or_else(|end| panic!("{about}: {end}"));
        assert_eq!(wrong(fault, setting, &report), None, "{about}: {report:#?}");
    }
}

/// For people: `scripts/faults`.
#[test]
#[ignore = "scripts/faults runs it"]
fn table() {
    let columns = Report::COLUMNS;
    println!("| kept by | fault | program | {} |", columns.join(" | "));
    println!("|---|---|---|{}", "---|".repeat(columns.len()));
    let ours = Setting::ALL.into_iter().flat_map(all);
    let direct = FAULTS
        .iter()
        .map(|fault| (fault, Setting::Publishing, Keeper::Direct));
    let runs: Vec<Run> = ours.chain(direct).collect();
    let mut all_well = true;
    for ((fault, setting, keeper), report) in run_all(&runs) {
        let cells = match &report {
            Ok(report) => report.cells(),
            Err(end) => {
                eprintln!("{}, {}: {end}", fault.name, setting.name());
                let end = end.lines().next().unwrap_or_default();
                format!(
                    "the program did not survive: {end} |{}",
                    " |".repeat(columns.len() - 2)
                )
            }
        };
        println!(
            "| {} | {} | {} | {cells} |",
            keeper.name(),
            fault.name,
            setting.name()
        );
        if keeper == Keeper::Ours {
            let wrong = report.map_or(Some("it did not survive"), |report| {
                wrong(fault, setting, &report)
            });
            if let Some(wrong) = wrong {
                eprintln!("{}, {}: {wrong}", fault.name, setting.name());
                all_well = false;
            }
        }
    }
    assert!(all_well, "see above");
}
