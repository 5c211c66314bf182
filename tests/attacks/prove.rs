//! Shows that the cases notice missing walls: what falls in plain containers (`runc`, all other hardening kept), and what
//! falls in containers without any wall.

use std::collections::BTreeMap;

use crate::{
    arena::{Ground, Outcome},
    case::Case,
    host::Host,
    naked::Naked,
    report::print,
    run,
    sidecar::Sidecar,
};

/// What one case showed on both grounds.
#[derive(Default)]
struct Proof {
    order: usize,
    fell: [Option<String>; 2],
    ran: [bool; 2],
    /// Why it did not run.
    why: &'static str,
    stands: Option<&'static str>,
}

/// Runs the cases without gVisor, then without any wall, and lists what falls; whether each case that stood everywhere
/// says why.
pub(crate) fn prove(filter: &str) -> Result<bool, String> {
    let mut proofs: BTreeMap<String, Proof> = BTreeMap::new();
    let mut note = |ground: usize, group: &str, case: &Case, outcome: Outcome| {
        let order = proofs.len();
        let proof = proofs.entry(format!("{group}: {} ({})", case.name, case.runtime)).or_default();
        if !proof.ran.contains(&true) && proof.order == 0 {
            proof.order = order;
        }
        proof.stands = case.stands;
        proof.ran[ground] = true;
        match outcome {
            Outcome::Stood(_) => {}
            Outcome::Fell(what) => proof.fell[ground] = Some(what),
            Outcome::NotRun(why) => {
                proof.ran[ground] = false;
                proof.why = why;
            }
        }
    };
    let host = || Host::new().map_err(|error| error.to_string());
    let facts = host()?;
    let sidecar = Sidecar::start("docker", Some("runc"), facts.token())?;
    run(Ground::Sidecar(sidecar), Some(facts), filter, |group, case, outcome, _| note(0, group, case, outcome))?;
    let facts = host()?;
    let naked = Naked::new(&facts)?;
    run(Ground::Naked(naked), Some(facts), filter, |group, case, outcome, _| note(1, group, case, outcome))?;

    let mut proofs: Vec<_> = proofs.into_iter().collect();
    proofs.sort_by_key(|(_, proof)| proof.order);
    show("Falls with runc instead of gVisor, the rest of the hardening kept", &proofs, |proof| proof.fell[0].clone());
    show("Falls only without any wall: privileged, root, every namespace the host's", &proofs, |proof| {
        proof.fell[1].clone().filter(|_| proof.fell[0].is_none())
    });
    show("Not run without walls", &proofs, |proof| {
        (proof.fell == [None, None] && !proof.ran[1]).then(|| proof.why.to_owned())
    });
    show("Stands everywhere, and why", &proofs, |proof| {
        proof.stands.filter(|_| proof.fell == [None, None] && proof.ran[1]).map(str::to_owned)
    });
    let unexplained = show("STANDS EVERYWHERE WITHOUT A REASON: proves nothing", &proofs, |proof| {
        (proof.fell == [None, None] && proof.ran[1] && proof.stands.is_none()).then(String::new)
    });
    let fallen = proofs.iter().filter(|(_, proof)| proof.fell != [None, None]).count();
    print(&format!("{} cases: {fallen} fall where walls are missing, {unexplained} prove nothing", proofs.len()));
    Ok(unexplained == 0)
}

/// One list; how long it is.
fn show(title: &str, proofs: &[(String, Proof)], pick: impl Fn(&Proof) -> Option<String>) -> usize {
    let rows: Vec<_> = proofs.iter().filter_map(|(name, proof)| Some((name, pick(proof)?))).collect();
    print(&format!("\n{title} ({}):", rows.len()));
    for (name, what) in &rows {
        let what: String = what.chars().take(120).map(|c| if c.is_control() { ' ' } else { c }).collect();
        print(&format!("  {name}{}{what}", if what.is_empty() { "" } else { ": " }));
    }
    rows.len()
}
