//! Turns: every contender has one in each round.

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

/// A bench under way.
pub struct Bench {
    pub options: Options,
    pub stage: Stage,
    clients: usize,
    failures: usize,
}

/// What of a measurement is looked at.
pub type Field = fn(&Measured) -> f64;

/// The measurements of some contenders, each with one for each round, or nothing where it failed.
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

    /// One row after the other.
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

    /// Of all contenders those that are asked for and meet a condition; and those that every ratio is to.
    pub fn contenders(&self, condition: impl Fn(&Contender) -> bool) -> Vec<Contender> {
        let compared = [contender::NONE, contender::DIRECT];
        let mut all = contender::all();
        all.retain(|contender| {
            let asked = contender.name.contains(&self.options.only);
            condition(contender) && (asked || compared.contains(&&*contender.name))
        });
        all
    }

    /// Rounds in which each of them does the same from nothing, in an order that changes from round to round.
    pub fn alternate(
        &mut self,
        contenders: &[Contender],
        rounds: usize,
        what: &str,
        work: Work,
        load: Load,
    ) -> Results {
        self.alternate_with(contenders, rounds, what, |bench, contender| {
            bench.run(contender, work, load)
        })
    }

    /// The same for something else.
    pub fn alternate_with(
        &mut self,
        contenders: &[Contender],
        rounds: usize,
        what: &str,
        mut turn: impl FnMut(&mut Self, &Contender) -> Result<Measured, String>,
    ) -> Results {
        let mut results = Results::new(contenders);
        for round in 0..rounds {
            eprintln!("{what}: round {} of {rounds}", round + 1);
            for offset in 0..contenders.len() {
                let index = (round + offset) % contenders.len();
                let contender = &contenders[index];
                let measured = turn(self, contender);
                let measured = measured
                    .map_err(|error| self.fail(&format!("{what}: {}: {error}", contender.name)));
                results.measured[index].push(measured.ok());
            }
        }
        results
    }

    /// Writes a chart where `--charts` asks for it.
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

    /// Says aloud what went wrong: the table and the exit status say only that something did.
    pub fn fail(&mut self, message: &str) {
        self.failures += 1;
        eprintln!("bench: FAILED: {message}");
    }

    /// One measurement from nothing, after which there has to be nothing but what the work leaves.
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
                let left = match work {
                    Work::Publish | Work::PublishBesideOutage | Work::FillAndSend => 0,
                    Work::Fill | Work::Leave | Work::Create => load.messages,
                };
                // Where nothing outlives the process there is nothing to look at from here.
                let left = if contender.outlives_the_process() {
                    left
                } else {
                    0
                };
                self.expect_records(contender, left).map(|()| measured)
            })
    }

    /// One measurement of a client with a name, for which messages may wait; at another broker, where one is given.
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

    /// One measurement from nothing beside another client, whose Redis is this.
    pub fn run_beside(
        &mut self,
        contender: &Contender,
        neighbour: &str,
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
                neighbour: neighbour.to_owned(),
                ..self.stage.addresses(contender)
            },
            load,
        };
        measure(&job, self.options.pin)
    }

    /// A client id that no session of an earlier measurement is kept for.
    pub fn new_client(&mut self) -> String {
        self.clients += 1;
        format!("bench-{}", self.clients)
    }

    /// A message that was acknowledged leaves no record, and one that waits has one. What a process sent before it ended may
    /// take Redis a moment.
    pub fn expect_records(&self, contender: &Contender, expected: usize) -> Result<(), String> {
        let mut found = 0;
        let done = poll(Duration::from_secs(1), || {
            found = self.stage.records(contender);
            (found == expected).then_some(())
        });
        done.ok_or_else(|| format!("{found} records are there instead of {expected}"))
    }

    pub fn exit_code(&self) -> ExitCode {
        if self.failures > 0 {
            eprintln!("bench: {} measurements failed", self.failures);
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

/// Has a server run on the second processor only, with all its threads.
///
/// Waking a process up takes several times as long on another processor as on the same one, and where the scheduler puts them
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
        // It ends when this is closed.
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
