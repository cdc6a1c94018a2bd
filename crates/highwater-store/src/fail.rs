//! Named points of the protocol that can be made to end the process, for drills. Nothing without feature `failpoints`.
//!
//! `HIGHWATER_FAIL="point=N,other=M"` aborts at the N-th hit of `point`, as a kill would; `sabotage=NAME` switches a
//! rule off on purpose, so that a drill can show that it would notice.

/// Ends the process here, when `HIGHWATER_FAIL` names this point and it is the hit that was asked for.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn point(_name: &str) {}

/// Whether `HIGHWATER_FAIL` asks for this rule to be broken on purpose.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn sabotaged(_name: &str) -> bool {
    false
}

#[cfg(feature = "failpoints")]
pub use on::{point, sabotaged};

#[cfg(feature = "failpoints")]
mod on {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Plan {
        points: Vec<(String, u64, AtomicU64)>,
        sabotage: Vec<String>,
    }

    fn plan() -> &'static Plan {
        static PLAN: OnceLock<Plan> = OnceLock::new();
        PLAN.get_or_init(|| parse(&std::env::var("HIGHWATER_FAIL").unwrap_or_default()))
    }

    fn parse(text: &str) -> Plan {
        let mut plan = Plan { points: Vec::new(), sabotage: Vec::new() };
        for (name, value) in text.split(',').filter_map(|part| part.split_once('=')) {
            match (name, value.parse()) {
                ("sabotage", _) => plan.sabotage.push(value.to_owned()),
                (name, Ok(hit)) => plan.points.push((name.to_owned(), hit, AtomicU64::new(0))),
                (name, Err(_)) => panic!("HIGHWATER_FAIL: {name}={value} is not a number of a hit"),
            }
        }
        plan
    }

    /// Ends the process here, when `HIGHWATER_FAIL` names this point and it is the hit that was asked for.
    pub fn point(name: &str) {
        for (_, wanted, hits) in plan().points.iter().filter(|(point, ..)| point == name) {
            if hits.fetch_add(1, Ordering::Relaxed) + 1 == *wanted {
                eprintln!("failpoint {name} fired");
                std::process::abort();
            }
        }
    }

    /// Whether `HIGHWATER_FAIL` asks for this rule to be broken on purpose.
    pub fn sabotaged(name: &str) -> bool {
        plan().sabotage.iter().any(|given| given == name)
    }

    #[cfg(test)]
    mod tests {
        /// Points and sabotage stand in one variable.
        #[test]
        fn the_variable_is_understood() {
            let plan = super::parse("after-append=3,sabotage=early-commit");
            assert_eq!((plan.points[0].0.as_str(), plan.points[0].1), ("after-append", 3));
            assert_eq!(plan.sabotage, ["early-commit"]);
        }
    }
}
