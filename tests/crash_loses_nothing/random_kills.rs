//! The program is killed at random instants with a real broker, and what it had accepted arrives all the same.

use std::env;

use testkit::{
    crash::Versions,
    kills::{Account, Life},
};

/// Each has its own seed, so that it can be repeated alone.
fn lives(rounds: usize, seed: u64) -> impl Iterator<Item = Life> {
    let of = move |versions, cuts| Life {
        versions,
        cuts,
        rounds,
        seed,
    };
    [
        of(Versions::V5, false),
        of(Versions::V5, true),
        of(Versions::V3, false),
        of(Versions::V3, true),
    ]
    .into_iter()
}

#[test]
#[ignore = "it takes long: scripts/crash-random runs it"]
fn table() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds = number("CRASH_ROUNDS").unwrap_or(100);
    let seed = number("CRASH_SEED").unwrap_or(1);
    println!(
        "| MQTT | connection | seed | killed | given up | accepted, QoS 0/1/2 | lost, QoS 0 | lost, QoS 1 | lost, QoS 2 | again, QoS 1 | twice, QoS 2 | altered | unheard | sent to it | lost | twice | lost by Paho | twice by Paho | twice by the broker | trouble |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|");
    let mut all_clean = true;
    for life in lives(usize::try_from(rounds).expect("a number"), seed) {
        let account = life.run();
        all_clean &= account.is_clean();
        println!("{}", row(life, &account));
        if !account.is_clean() {
            eprintln!("{life:?}: {account:#?}");
        }
    }
    assert!(all_clean, "see above");
}

fn row(life: Life, account: &Account) -> String {
    let version = match life.versions {
        Versions::V5 => "5",
        _ => "3.1.1",
    };
    let connection = if life.cuts { "breaks" } else { "holds" };
    let [accepted0, accepted1, accepted2] = account.accepted;
    let [lost0, lost1, lost2] = account.lost.each_ref().map(Vec::len);
    let Account {
        killed,
        given_up,
        again,
        unheard,
        sent,
        inbound,
        ..
    } = account;
    format!(
        "| {version} | {connection} | {} | {killed} | {given_up} | {accepted0}/{accepted1}/{accepted2} | {lost0} | {lost1} | {lost2} | {again} | {} | {} | {unheard} | {sent} | {} | {} | {} | {} | {} | {} |",
        life.seed,
        account.twice.len(),
        account.altered.len(),
        inbound.lost.len(),
        inbound.twice.len(),
        inbound.lost_by_paho.len(),
        inbound.twice_by_paho.len(),
        inbound.twice_by_broker.len(),
        account.trouble.as_deref().unwrap_or("none"),
    )
}

/// Some rounds of each; scripts/crash-random does hundreds.
#[test]
fn what_was_accepted_arrives_whenever_the_program_is_killed() {
    for life in lives(18, 1) {
        let account = life.run();
        assert!(account.killed >= 10, "{life:?}: {account:#?}");
        assert!(account.accepted[2] >= 100, "{life:?}: {account:#?}");
        assert!(account.is_clean(), "{life:?}: {account:#?}");
    }
}
