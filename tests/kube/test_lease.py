import asyncio

from agent.kube.lease import Lease, LeaseTimes

QUICK = LeaseTimes(lease=1, renew=0.6, retry=0.1)


async def test_one_leads_and_the_next_takes_over_at_once_when_it_is_given_up(server, client):
    first, second = Lease(client, "default", "l", "one", QUICK), Lease(client, "default", "l", "two", QUICK)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(first.run())]
        await first.acquire()
        running.append(group.create_task(second.run()))
        await asyncio.sleep(0.3)
        assert (first.held, second.held) == (True, False)
        running[0].cancel()
        await first.release()
        assert not first.held
        await second.acquire()
        assert server.get("Lease", "l")["spec"]["holderIdentity"] == "two"
        running[1].cancel()


async def test_a_leader_that_vanished_is_replaced_when_its_lease_has_run_out(server, client):
    first, second = Lease(client, "default", "l", "one", QUICK), Lease(client, "default", "l", "two", QUICK)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(first.run())
        await first.acquire()
        running.cancel()
        heir = group.create_task(second.run())
        async with asyncio.timeout(5):
            await second.acquire()
        assert not first.held
        heir.cancel()


async def test_a_leader_that_cannot_renew_stops_before_others_may_lead(server, client):
    lease = Lease(client, "default", "l", "one", QUICK)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(lease.run())
        await lease.acquire()
        server.fail(500, times=1000)
        async with asyncio.timeout(3):
            await running  # it returns by itself
        assert not lease.held


async def test_never_do_two_lead_at_once_however_often_the_server_fails(server, client):
    contenders = [Lease(client, "default", "l", str(number), QUICK) for number in range(3)]
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(contender.run()) for contender in contenders]
        for step in range(30):
            if step % 7 == 0:
                server.fail(500 if step % 2 else None, times=5)
            await asyncio.sleep(0.05)
            assert sum(contender.held for contender in contenders) <= 1
        for task in running:
            task.cancel()


async def test_a_clock_that_is_wrong_by_an_hour_does_not_matter(server, client):
    server.put(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "l", "namespace": "default"},
            "spec": {
                "holderIdentity": "dead",
                "leaseDurationSeconds": 1,
                "renewTime": "2099-01-01T00:00:00.000000Z",
            },
        }
    )
    lease = Lease(client, "default", "l", "one", QUICK)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(lease.run())
        async with asyncio.timeout(5):
            await lease.acquire()
        running.cancel()
