//! The roles of a replica: every request of an operator, and what its primary does, in every role.

use afterimage_block::{Epoch, Sequence};
use afterimage_replication::{FailoverKind, ReplicaRequest, ReplicaState, Role};

const POINT: Sequence = Sequence::new(7);

pub(crate) struct Edge {
    pub(crate) from: String,
    pub(crate) event: &'static str,
    /// The role that comes of it, or why it is refused.
    pub(crate) to: Result<String, String>,
}

fn roles() -> [Role; 7] {
    let waiting = |kind| Role::FailedOverWaitingCompletion { kind, point: POINT };
    [
        Role::Replica,
        Role::PreparedForFailover { through: POINT },
        waiting(FailoverKind::Planned),
        waiting(FailoverKind::Unplanned),
        Role::FailedOver { point: POINT },
        Role::Reversed { point: POINT },
        Role::Adopted { point: POINT },
    ]
}

pub(crate) fn edges() -> Vec<Edge> {
    let mut edges = Vec::new();
    for role in roles() {
        let mut add = |event, next: Result<Role, String>| {
            edges.push(Edge {
                from: name(role),
                event,
                to: next.map(name),
            });
        };
        for (event, request) in [
            (
                "planned failover",
                ReplicaRequest::PlannedFailover { point: POINT },
            ),
            (
                "unplanned failover",
                ReplicaRequest::UnplannedFailover { point: POINT },
            ),
            ("commit", ReplicaRequest::Commit),
            ("cancel", ReplicaRequest::Cancel),
        ] {
            add(
                event,
                role.request(request).map_err(|refused| refused.reason),
            );
        }
        let mut state = ReplicaState {
            role,
            primary: None,
            lineage: Epoch::new(1),
        };
        let claimed = state.admits(Epoch::new(1)).map(|()| Role::Replica);
        add(
            "its primary claims it",
            claimed.map_err(|refused| refused.reason),
        );
        let adopted = state.clone().adopt(Epoch::new(2), POINT);
        let adopted = adopted.map(|_| Role::Adopted { point: POINT });
        add("adopt", adopted.map_err(|refused| refused.reason));
        let reversed = state.reverse(Epoch::new(2), Epoch::new(2), POINT);
        let reversed = reversed.map(|_| state.role);
        add("reverse", reversed.map_err(|refused| refused.reason));
    }
    edges
}

fn name(role: Role) -> String {
    let text = format!("{role:?}");
    let name = text.split(' ').next().unwrap_or_default();
    match role {
        Role::FailedOverWaitingCompletion { kind, .. } => format!("{name} ({kind:?})"),
        _ => name.into(),
    }
}
