//! `adopt`: moves the backlog of a client to another server URI.

use paho_mqtt_redis::backlog::AdoptionPlan;
use serde_json::json;

use crate::{
    args::{ClientArgs, parse_server_uri},
    context::Context,
    exit::{Exit, Failure},
    output::{count, escape},
};

#[derive(clap::Args, Debug)]
#[command(after_help = "\
What moves is older than what waits under URI, so it goes in front of that. Each message moves in one step: after a \
failure nothing is lost, and the same command moves the rest.")]
pub struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// The server URI that its program creates the client with now, as in tcp://broker:1883
    #[arg(value_name = "URI", value_parser = parse_server_uri)]
    uri: String,
    /// Say what would move, and move nothing
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        let Context { server, out, .. } = context;
        let from = self.client.resolve(server)?;
        let id = server.client_id(&self.client.client, &from);
        let name = server.name_under(id, &from, &self.uri)?;
        let plan = server.plan_adoption(&name, &from)?;
        let moved = if self.dry_run {
            None
        } else {
            out.outlive_reader();
            Some(server.adopt(&name, &from)?.moved)
        };
        Self::report(context, &from, &name, &plan, moved)?;
        for key in &plan.unreadable {
            context.complain(&format!("{key} stays: Paho could not read it"));
        }
        for key in &plan.in_use {
            context.complain(&format!(
                "{key} stays: its packet id, which the broker has chosen, is in use"
            ));
        }
        if plan.foreign > 0 {
            let foreign = plan.foreign;
            context.complain(&format!("{foreign} foreign entries stay"));
        }
        Ok(Exit::Done)
    }

    fn report(
        context: &mut Context,
        from: &str,
        name: &str,
        plan: &AdoptionPlan,
        moved: Option<usize>,
    ) -> Result<(), Failure> {
        let out = &mut context.out;
        if out.is_json() {
            return out.json(&json!({
                "from": from,
                "to": name,
                "messages": plan.messages,
                "records": plan.records,
                "renumbered": plan.renumbered,
                "staying": plan.unreadable.len() + plan.in_use.len() + plan.foreign,
                "moved_records": moved,
            }));
        }
        let what = match moved {
            None => format!(
                "would move {} ({})",
                count(plan.messages, "message"),
                count(plan.records, "record")
            ),
            Some(moved) => format!("moved {}", count(moved, "record")),
        };
        out.line(&format!(
            "{what} from {} to {}",
            escape(from.as_bytes()),
            escape(name.as_bytes())
        ))?;
        if plan.renumbered > 0 {
            out.line(&format!(
                "{} with other numbers, in front of what waits there",
                count(plan.renumbered, "message")
            ))?;
        }
        Ok(())
    }
}
