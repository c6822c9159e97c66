//! Measurement in a process of its own.

use std::{
    fs,
    io::{self, Read},
    mem, process, thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;

use crate::{
    client::{Publisher, connect, create},
    contender,
    io_count::IoCount,
    job::{Job, Load, Measured, Work},
    neighbor::Neighbor,
};

/// Argument that makes a process of the bench measure.
pub const FLAG: &str = "--measure";

/// Far longer than any step takes: a token that never completes must not stop the bench.
const LIMIT: Duration = Duration::from_secs(300);

/// Time that a client publishes before it is measured.
const WARM_UP: Duration = Duration::from_millis(30);

/// Does the job, prints the measurement, and exits without dropping a client with waiting messages.
pub fn run(arguments: &[String]) -> ! {
    thread::spawn(|| {
        // The bench has the other end, which closes when it ends.
        let _ = io::stdin().read(&mut [0]);
        process::exit(4);
    });
    thread::spawn(|| {
        let started = Instant::now();
        while started.elapsed() < LIMIT {
            thread::park_timeout(LIMIT);
        }
        eprintln!("not done within {LIMIT:?}");
        process::exit(3);
    });
    let Some(job) = Job::from_arguments(arguments) else {
        eprintln!("a measurement is started by the bench only");
        process::exit(2);
    };
    match measure(&job) {
        Ok(measured) => {
            println!("{measured}");
            process::exit(0);
        }
        Err(error) => {
            eprintln!("{error}");
            process::exit(1);
        }
    }
}

fn measure(job: &Job) -> Result<Measured, mqtt::Error> {
    let contender = contender::all()
        .into_iter()
        .chain(contender::durabilities())
        .find(|contender| contender.name == job.contender)
        .ok_or("no such contender")?;
    let started = Instant::now();
    let client = create(job, &contender)?;
    let created = started.elapsed();

    let neighbor = (!job.at.neighbor.is_empty())
        .then(|| Neighbor::start(job))
        .transpose()?;
    let load = &job.load;
    let mut publisher = Publisher::new(&client, load);
    let before = IoCount::of_this_process();
    let mut measured = Measured::default();
    match job.work {
        Work::Publish | Work::PublishBesideOutage => {
            connect(&client, job.version)?;
            if job.work == Work::PublishBesideOutage
                && let Some(neighbor) = &neighbor
            {
                neighbor.lose_redis();
            }
            // A load that counts messages must count only these.
            if load.messages == usize::MAX {
                publisher.publish_all(&Load {
                    lasting: WARM_UP,
                    ..*load
                })?;
            }
            let (started, busy_before) = (Instant::now(), busy());
            measured.messages = float(publisher.publish_all(load)?);
            measured.seconds = started.elapsed().as_secs_f64();
            measured.busy = busy() - busy_before;
        }
        Work::Fill | Work::FillAndSend => {
            let started = Instant::now();
            publisher.publish_unwaited(load.messages)?;
            measured.messages = float(load.messages);
            measured.seconds = started.elapsed().as_secs_f64();
        }
        Work::Leave => {
            connect(&client, job.version)?;
            publisher.publish_unwaited(load.messages)?;
            // It is sent after all others, and its token completes then.
            Publisher::new(&client, &Load { qos: 0, ..*load })
                .publish()?
                .wait()?;
            measured.messages = float(load.messages);
        }
        Work::Create => {
            measured.seconds = created.as_secs_f64();
            measured.resident = resident();
            // Its number follows those of the restored messages, so the bench can count that it is one more. At QoS 0, since Paho
            // searches a free packet id in a time that grows with the square of the used ones.
            Publisher::new(&client, &Load { qos: 0, ..*load }).publish()?;
        }
    }
    if job.work == Work::FillAndSend {
        let started = Instant::now();
        connect(&client, job.version)?;
        publisher.wait_for_all()?;
        measured.sending = started.elapsed().as_secs_f64();
    }
    if job.work == Work::Fill {
        measured.resident = resident();
    }
    drop(publisher);
    let disconnects = [Work::Publish, Work::PublishBesideOutage, Work::FillAndSend];
    if disconnects.contains(&job.work) {
        client.disconnect(None).wait()?;
        // With the last client of a process Paho ends its threads, which would add up to a second to every measurement.
        let other = mqtt::CreateOptionsBuilder::new().persistence(mqtt::PersistenceType::None);
        mem::forget(other.create_client()?);
        drop(client);
    } else {
        // Dropping it would remove the waiting messages.
        mem::forget(client);
    }
    let IoCount { written, withdrawn } = IoCount::of_this_process().since(&before);
    Ok(Measured {
        written,
        withdrawn,
        ..measured
    })
}

/// Resident memory of this process in bytes.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .split_whitespace()
            .next()?
            .parse::<f64>()
            .ok()
    });
    kilobytes.expect("resident memory in /proc") * 1024.0
}

/// Processor time of the running threads in seconds; zero if the kernel does not count it.
fn busy() -> f64 {
    let threads = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

#[expect(
    clippy::cast_precision_loss,
    reason = "there are not that many messages"
)]
fn float(number: usize) -> f64 {
    number as f64
}
