//! Rounds, in each of which every contender has a turn.

use std::{
    env,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use testkit::poll;

use crate::{
    child,
    contender::{self, Contender},
    job::{Addresses, Job, Load, Measured, Work},
    options::Options,
    stage::Stage,
    statistics::Series,
};
use testkit::charts::{self, BarChart};

/// Running bench.
pub struct Bench {
    pub options: Options,
    pub stage: Stage,
    clients: usize,
    failures: usize,
}

/// Field of a measurement.
pub type Field = fn(&Measured) -> f64;

/// Measurements of some contenders, one per round; `None` for a round that failed.
pub struct Results {
    contenders: Vec<Contender>,
    measured: Vec<Vec<Option<Measured>>>,
}

impl Results {
    fn new(contenders: &[Contender]) -> Self {
        Self {
            contenders: contenders.to_vec(),
            measured: vec![Vec::new(); contenders.len()],
        }
    }

    /// Rows, in order.
    pub fn rows(&self, field: Field) -> impl Iterator<Item = (&Contender, Series)> {
        let series = move |measured: &Vec<Option<Measured>>| {
            Series(
                measured
                    .iter()
                    .map(|measured| measured.as_ref().map(field))
                    .collect(),
            )
        };
        self.contenders.iter().zip(self.measured.iter().map(series))
    }

    pub fn series(&self, name: &str, field: Field) -> Option<Series> {
        let mut rows = self.rows(field);
        rows.find_map(|(contender, series)| (contender.name == name).then_some(series))
    }
}

impl Bench {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            stage: Stage::start(),
            clients: 0,
            failures: 0,
        }
    }

    /// Selected contenders that meet a condition, and those that every ratio refers to.
    pub fn contenders(&self, condition: impl Fn(&Contender) -> bool) -> Vec<Contender> {
        let is_selected = |contender: &Contender| {
            condition(contender) && contender.name.contains(&self.options.only)
        };
        let mut all = contender::all();
        let selected = all.iter().filter(|contender| is_selected(contender));
        let mut compared: Vec<String> = selected.filter_map(Contender::limit).collect();
        compared.extend([contender::NONE, contender::DIRECT].map(str::to_owned));
        all.retain(|contender| {
            is_selected(contender) || condition(contender) && compared.contains(&contender.name)
        });
        all
    }

    /// Runs rounds in which each contender does the same work from scratch, in an order that changes from round to round.
    pub fn alternate(
        &mut self,
        contenders: &[Contender],
        rounds: usize,
        title: &str,
        work: Work,
        load: Load,
    ) -> Results {
        self.alternate_with(contenders, rounds, title, |bench, contender| {
            bench.run(contender, work, load)
        })
    }

    /// Does the same with a custom turn.
    pub fn alternate_with(
        &mut self,
        contenders: &[Contender],
        rounds: usize,
        title: &str,
        mut turn: impl FnMut(&mut Self, &Contender) -> Result<Measured, String>,
    ) -> Results {
        let mut results = Results::new(contenders);
        for round in 0..rounds {
            eprintln!("{title}: round {} of {rounds}", round + 1);
            for offset in 0..contenders.len() {
                let index = (round + offset) % contenders.len();
                let contender = &contenders[index];
                let measured = turn(self, contender);
                let measured = measured
                    .map_err(|error| self.fail(&format!("{title}: {}: {error}", contender.name)));
                results.measured[index].push(measured.ok());
            }
        }
        results
    }

    /// Writes a chart if `--charts` is given.
    pub fn draw(&mut self, name: &str, chart: &BarChart) {
        let Some(folder) = self.options.charts.clone() else {
            return;
        };
        if let Err(error) = charts::write(&folder, name, chart) {
            self.fail(&format!(
                "cannot write {name} to {}: {error}",
                folder.display()
            ));
        }
    }

    /// Reports a failure on standard error, since the table and the exit status have no reason.
    pub fn fail(&mut self, message: &str) {
        self.failures += 1;
        eprintln!("bench: FAILED: {message}");
    }

    /// Measures from scratch, and checks that only the records that the work leaves remain.
    pub fn run(
        &mut self,
        contender: &Contender,
        work: Work,
        load: Load,
    ) -> Result<Measured, String> {
        self.stage.clear(contender);
        let client_id = self.new_client();
        self.run_as(contender, &client_id, work, load, None)
            .and_then(|measured| {
                let expected = match work {
                    Work::Publish | Work::PublishBesideOutage | Work::FillAndSend => 0,
                    Work::Fill | Work::Leave | Work::Create => load.messages,
                };
                // Nothing to count from here if no record outlives the process.
                let expected = if contender.outlives_the_process() {
                    expected
                } else {
                    0
                };
                self.expect_records(contender, expected).map(|()| measured)
            })
    }

    /// Measures a client with this id, for which messages may wait, at another broker if one is given.
    pub fn run_as(
        &mut self,
        contender: &Contender,
        client_id: &str,
        work: Work,
        load: Load,
        broker: Option<String>,
    ) -> Result<Measured, String> {
        let at = self.stage.addresses(contender);
        let job = Job {
            work,
            contender: contender.name.clone(),
            client_id: client_id.to_owned(),
            version: self.options.version,
            at: Addresses {
                broker: broker.unwrap_or(at.broker.clone()),
                ..at
            },
            load,
        };
        if self.options.pin {
            pin(self.stage.broker.pid())?;
            pin(self.stage.redis.pid())?;
        }
        measure(&job, self.options.pin)
    }

    /// Measures from scratch beside another client, whose Redis is `neighbor`.
    pub fn run_beside(
        &mut self,
        contender: &Contender,
        neighbor: &str,
        work: Work,
        load: Load,
    ) -> Result<Measured, String> {
        self.stage.clear(contender);
        let job = Job {
            work,
            contender: contender.name.clone(),
            client_id: self.new_client(),
            version: self.options.version,
            at: Addresses {
                neighbor: neighbor.to_owned(),
                ..self.stage.addresses(contender)
            },
            load,
        };
        measure(&job, self.options.pin)
    }

    /// Returns a client id without a session from an earlier measurement.
    pub fn new_client(&mut self) -> String {
        self.clients += 1;
        format!("bench-{}", self.clients)
    }

    /// Checks the number of records: none for an acknowledged message, one for a waiting message. Redis may still be reading requests
    /// of a process that has ended.
    pub fn expect_records(&self, contender: &Contender, expected: usize) -> Result<(), String> {
        let mut found = 0;
        let done = poll(Duration::from_secs(1), || {
            found = self.stage.records(contender);
            (found == expected).then_some(())
        });
        done.ok_or_else(|| format!("{found} records instead of {expected}"))
    }

    pub fn exit_code(&self) -> ExitCode {
        if self.failures > 0 {
            eprintln!("bench: {} measurements failed", self.failures);
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

/// Pins a server with all its threads to the second processor.
///
/// Waking a process on another processor takes several times as long as on the same one, and the placement by the scheduler
/// changes from round to round.
fn pin(server: u32) -> Result<(), String> {
    let output = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", "1"])
        .arg(server.to_string())
        .output()
        .map_err(|error| format!("taskset: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Runs a job in a process of its own, which ends with this one.
fn measure(job: &Job, pin: bool) -> Result<Measured, String> {
    let run = || {
        let program = env::current_exe()?;
        let mut command = if pin {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", "0"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let mut process = command
            .arg(child::FLAG)
            .args(job.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        // The child ends when this is closed.
        let tie = process.stdin.take();
        let output = process.wait_with_output();
        drop(tie);
        output
    };
    let output = run().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("the process ended with {}", output.status));
    }
    String::from_utf8_lossy(&output.stdout).parse()
}
