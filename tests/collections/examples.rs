//! The examples: each run as its header says, and what it must print.

use crate::storm::bed::{Bed, Running, example};

/// Runs an example over its data in one epoch, then once more: nothing comes twice.
fn run(name: &str, data: &str, expected: &str) {
    let bed = Bed::new();
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(data);
    bed.write("in", std::fs::read(data).unwrap());
    for workers in [1, 3] {
        let line = format!("in -r store --output out -q -s 1h -w {workers}");
        Running::start(&mut bed.command(&example(name), &line)).end().code(0);
        assert_eq!(bed.text("out"), expected, "{name} with -w {workers}");
    }
    // Over many epochs the changes add up to the same.
    let line = "in -r store-2 --output out-2 -q -s 0 -w 2";
    Running::start(&mut bed.command(&example(name), line)).end().code(0);
    assert!(bed.text("out-2").lines().count() >= expected.lines().count());
}

#[test]
fn cart_collections_tells_what_is_paid() {
    let expected = "[{\"user_id\":\"a\",\"paid_order_ids\":[1]},1]\n[{\"user_id\":\"b\",\"paid_order_ids\":[3]},1]\n";
    run("cart_collections", "cart-collections.json", expected);
}

#[test]
fn reachability_tells_what_is_reached() {
    run("reachability", "edges.txt", "[1,1]\n[2,1]\n[5,1]\n");
}

#[test]
fn order_totals_tells_revenue_before_and_after() {
    let expected = "{\"key\":\"rum\",\"old\":null,\"new\":2100}\n{\"key\":\"tea\",\"old\":null,\"new\":1750}\n";
    run("order_totals", "order-totals.json", expected);
}

/// Cut into epochs by hand: the second run takes back what the first said.
#[test]
fn a_later_run_takes_back_what_an_earlier_one_said() {
    let bed = Bed::new();
    bed.write("in", "+ 1 2\n+ 2 3\n+ 3 4\n+ 4 3\n");
    let reach = |workers: u32| {
        let line = format!("in -r store --output out -q -s 1h -w {workers}");
        Running::start(&mut bed.command(&example("reachability"), &line)).end().code(0);
        bed.text("out")
    };
    assert_eq!(reach(2), "[1,1]\n[2,1]\n[3,1]\n[4,1]\n");
    // 3 and 4 lead to each other: a fixed point that was saved would go on holding both.
    bed.append("in", "- 2 3\n");
    assert_eq!(reach(3), "[1,1]\n[2,1]\n[3,1]\n[4,1]\n[3,-1]\n[4,-1]\n");
    bed.append("in", "+ 1 4\n");
    assert_eq!(reach(1), "[1,1]\n[2,1]\n[3,1]\n[4,1]\n[3,-1]\n[4,-1]\n[3,1]\n[4,1]\n");
}
