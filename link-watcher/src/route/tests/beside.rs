//! Routes of others, in and before our places.

use super::*;

fn unreachable(key: RouteKey) -> FoundRoute {
    FoundRoute { key, protocol: 3, egress: None }
}

fn leads(kernel: &FakeKernel, key: &RouteKey) -> Option<Egress> {
    kernel.state().routes.get(key).and_then(|route| route.egress.clone())
}

#[test]
fn a_route_put_before_ours_and_removed_again_hinders_no_failover() {
    let (kernel, mut routes) = pair();
    run(routes.apply(0, GROUP, &group_routes(1, &[1], &[])));
    kernel.foreign_prepend(unreachable(key(0, 0)));
    let notices = run_due(&kernel, &mut routes, SECOND);
    assert!(matches!(notices[..], [Notice::Taken { protocol: 3, .. }]), "{notices:?}");
    assert_eq!(routes.report(GROUP).refused[0].why, Why::Foreign(Some(3)));
    // Ours is moved behind it, without a look at the table and in one exchange; theirs stays.
    let looked = kernel.state().lookups;
    kernel.state().calls.clear();
    run(routes.apply(2 * SECOND, GROUP, &group_routes(1, &[2], &[])));
    assert_eq!(kernel.state().lookups, looked);
    assert_eq!(kernel.state().calls.len(), 1);
    let standing: Vec<FoundRoute> = kernel.state().all(&key(0, 0)).into_iter().cloned().collect();
    let moved = FoundRoute { key: key(0, 0), protocol: PROTOCOL, egress: Some(Egress::Nexthops(vec![hop(2)])) };
    assert_eq!(standing, [unreachable(key(0, 0)), moved]);
    // Theirs goes: at the event ours is known to carry.
    kernel.foreign_delete(&key(0, 0));
    run_due(&kernel, &mut routes, 3 * SECOND);
    assert_eq!(routes.report(GROUP).installed, 1);
    run(routes.apply(3 * SECOND, GROUP, &group_routes(1, &[1], &[])));
    assert_eq!(leads(&kernel, &key(0, 0)), Some(Egress::Nexthops(vec![hop(1)])));
    assert!(kernel.state().behind[&key(0, 0)].is_empty());
}

#[test]
fn a_foreign_route_that_came_and_went_unseen_is_forgotten() {
    let (kernel, mut routes) = pair();
    run(routes.apply(0, GROUP, &group_routes(1, &[1], &[])));
    kernel.foreign_prepend(unreachable(key(0, 0)));
    // The filter does not know yet that the removal matters.
    kernel.foreign_delete(&key(0, 0));
    run_due(&kernel, &mut routes, SECOND);
    run_due(&kernel, &mut routes, 2 * SECOND);
    assert_eq!(routes.report(GROUP).installed, 1);
}

#[test]
fn two_foreign_routes_before_ours_stay_both() {
    let (kernel, mut routes) = pair();
    run(routes.apply(0, GROUP, &group_routes(1, &[1], &[])));
    kernel.foreign_prepend(foreign(key(0, 0), 4));
    kernel.foreign_prepend(unreachable(key(0, 0)));
    run_due(&kernel, &mut routes, SECOND);
    kernel.foreign_delete(&key(0, 0));
    run_due(&kernel, &mut routes, 3 * SECOND);
    assert_eq!(routes.report(GROUP).refused[0].why, Why::Foreign(Some(4)));
    run(routes.apply(3 * SECOND, GROUP, &group_routes(1, &[2], &[])));
    assert_eq!(kernel.state().routes[&key(0, 0)], foreign(key(0, 0), 4));
    kernel.foreign_delete(&key(0, 0));
    run_due(&kernel, &mut routes, 5 * SECOND);
    assert_eq!(routes.report(GROUP).installed, 1);
    assert_eq!(leads(&kernel, &key(0, 0)), Some(Egress::Nexthops(vec![hop(2)])));
}

#[test]
fn ours_is_back_when_the_route_that_replaced_it_goes() {
    let (kernel, mut routes) = pair();
    run(routes.apply(0, GROUP, &group_routes(2, &[1], &[])));
    kernel.foreign_write(foreign(key(0, 0), 16));
    run_due(&kernel, &mut routes, SECOND);
    assert_eq!(routes.report(GROUP).refused[0].why, Why::Foreign(Some(16)));
    kernel.foreign_delete(&key(0, 0));
    let notices = run_due(&kernel, &mut routes, 5 * SECOND);
    assert!(matches!(notices[..], [Notice::Repaired { count: 1, .. }]), "{notices:?}");
    assert_eq!(routes.report(GROUP).installed, 2);
    assert_eq!(kernel.state().lookups, 0);
    // Again and again: it waits.
    kernel.state().calls.clear();
    for i in 0..600 {
        let now_ns = 6 * SECOND + i * SECOND / 20;
        kernel.foreign_write(foreign(key(0, 0), 16));
        run_due(&kernel, &mut routes, now_ns);
        kernel.foreign_delete(&key(0, 0));
        run_due(&kernel, &mut routes, now_ns + SECOND / 50);
    }
    let writes = kernel.state().calls.concat();
    assert!(writes.len() < 50, "{}", writes.len());
}

#[test]
fn a_route_that_somebody_keeps_removing_counts_as_missing_while_it_is() {
    let (kernel, mut routes) = pair();
    run(routes.apply(0, GROUP, &group_routes(2, &[1], &[2])));
    let mut missing = 0;
    for i in 0..200 {
        let now_ns = SECOND + i * SECOND / 10;
        for metric in [0, 1] {
            kernel.foreign_delete(&key(0, metric));
        }
        run_due(&kernel, &mut routes, now_ns);
        let there = |metric| kernel.state().routes.contains_key(&key(0, metric));
        let report = routes.report(GROUP);
        assert_eq!(report.installed, 1 + usize::from(there(0)), "round {i}");
        let refused: Vec<&Why> = report.refused.iter().map(|refusal| &refusal.why).collect();
        assert_eq!(refused, if there(0) { vec![] } else { vec![&Why::Waiting] }, "round {i}");
        assert_eq!(report.backups_refused.len(), usize::from(!there(1)), "round {i}");
        missing += usize::from(!there(0));
    }
    assert!(missing > 150, "the fight is fought ever more slowly: {missing}");
}
