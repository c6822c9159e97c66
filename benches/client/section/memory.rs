//! The memory of a process in which many messages wait.

use super::offline::load_size;
use crate::{
    contender::Contender,
    job::{Load, Measured, Work},
    rounds::Bench,
    table::{self, mebibytes, whole},
};

const PAYLOAD: usize = 1024;

pub fn run(bench: &mut Bench) {
    let messages = if bench.options.quick { 1_000 } else { 60_000 };
    let mut rows = Vec::new();
    for contender in bench.contenders(Contender::stands_for_others) {
        eprintln!("memory: {}", contender.name);
        let row = match measure(bench, &contender, messages) {
            Ok(row) => row,
            Err(error) => {
                bench.fail(&format!("memory: {}: {error}", contender.name));
                vec!["failed".to_owned(); 4]
            }
        };
        rows.push([vec![contender.name], row].concat());
    }
    table::print(
        &format!(
            "Resident memory with {} messages of 1 KiB waiting",
            whole(load_size(messages))
        ),
        "Resident memory (VmRSS) of a process without messages, of one that published them without a connection, and of one \
         that restored them when its client was created; and the memory that Redis reports for them.",
        &["", "empty", "published", "restored", "in Redis"].map(str::to_owned),
        &rows,
    );
}

fn measure(
    bench: &mut Bench,
    contender: &Contender,
    messages: usize,
) -> Result<Vec<String>, String> {
    let resident = |measured: Measured| mebibytes(measured.resident);
    bench.stage.clear(contender);
    let redis_before = bench.stage.redis_memory();
    let client_id = bench.new_client();
    let empty = bench.run_as(
        contender,
        &client_id,
        Work::Fill,
        Load::of(0, 1, PAYLOAD),
        None,
    )?;
    let full = bench.run_as(
        contender,
        &client_id,
        Work::Fill,
        Load::of(messages, 1, PAYLOAD),
        None,
    )?;
    let mut row = vec![resident(empty), resident(full)];
    if contender.outlives_the_process() {
        bench.expect_records(contender, messages)?;
        let in_redis = bench.stage.redis_memory() - redis_before;
        let restored = bench.run_as(
            contender,
            &client_id,
            Work::Create,
            Load::of(messages, 1, PAYLOAD),
            None,
        )?;
        bench.expect_records(contender, messages + 1)?;
        row.push(resident(restored));
        row.push(if contender.uses_redis() {
            mebibytes(in_redis)
        } else {
            "–".to_owned()
        });
    } else {
        row.extend(["–", "–"].map(str::to_owned));
    }
    bench.stage.clear(contender);
    Ok(row)
}
