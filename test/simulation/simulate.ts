// Runs the simulator from the command line.
//
//   npm run simulate                              1000 seeds, from 0
//   npm run simulate -- --seeds 5000 --from 100   others
//   npm run simulate -- --seed 42                 one of them, with all that happened in it
//   npm run simulate -- --seeds 20 --happy        whole answers and no trouble, to see what the simulator itself costs
import { parseArgs } from "node:util"
import { Simulation } from "@llm-resilience/testing"

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    seeds: { type: "string" },
    from: { type: "string" },
    happy: { type: "boolean", default: false }
  }
})

// Two models that never fail behind every policy, and so many requests that building the chain is no part of it.
const happy = (plan: Simulation.Plan): Simulation.Plan => {
  const step: Simulation.Plan["steps"][number] = {
    ...plan.steps[0],
    latency: 20,
    spread: 0.3,
    tokenEvery: 0,
    faults: {},
    outages: [],
    cleanup: 0,
    badJson: 0,
    contextWindow: undefined,
    bulkhead: undefined,
    adaptive: undefined,
    rateLimit: undefined,
    hedge: undefined,
    retry: { retries: 2, base: 500, cap: 8000, maxRetryAfter: 5000 },
    cooldown: { rest: 5000, maxRest: 60_000, isolation: 60_000 },
    throttle: { minimumCalls: 20 },
    breaker: {
      trip: { _tag: "Consecutive", failures: 5 },
      openFor: 10_000,
      maxOpenFor: 60_000,
      probes: 1,
      probeLease: 60_000,
      probeFailureRate: 0,
      slowStart: 20_000
    },
    budget: { ratio: 0.1, floor: 10, halfLife: 10_000 },
    timeouts: { attempt: 30_000, firstToken: 30_000, idle: 15_000, ending: "cooperative" }
  }
  const none = Object.fromEntries(Object.keys(plan.traffic).map((name) => [name, 0])) as unknown as typeof plan.traffic
  return {
    ...plan,
    order: "fifo",
    preemption: 0,
    grid: 1,
    millis: 20_000,
    operator: [],
    wallSteps: [],
    health: undefined,
    cache: undefined,
    deferred: undefined,
    requeues: [],
    replicas: undefined,
    requests: Array.from({ length: 2000 }, (_, index) => index),
    traffic: { ...none, every: 10, deadlines: 1, questions: 40, scopes: 3, toolsets: 2 },
    steps: [
      { ...step, priority: 0 },
      { ...step, priority: 1 }
    ],
    chain: { ...plan.chain, attempts: 12, hedge: undefined, routing: "ordered" }
  }
}

const one = (seed: number): Simulation.Run => {
  const run = Simulation.run(seed, { keptEvents: 1_000_000 })
  console.log(run.lastEvents.join("\n"))
  console.log(`\nseed ${seed}: ${run.requests} requests, fingerprint ${run.fingerprint}`)
  return run
}

const many = (from: number, seeds: number): Simulation.Run | undefined => {
  const cpu = process.cpuUsage()
  const sums = new Map<string, number>()
  let done = 0
  const { failed, requests } = Simulation.explore({
    from,
    seeds,
    ...(values.happy ? { change: happy } : {}),
    onRun: ({ counts }) => {
      for (const [name, count] of Object.entries(counts)) sums.set(name, (sums.get(name) ?? 0) + count)
      // A run that was stopped goes on from here.
      if (++done % 1000 === 0) console.log(`nothing yet in ${done} seeds; the next is --from ${from + done}`)
    }
  })
  const { system, user } = process.cpuUsage(cpu)
  const seconds = (user + system) / 1_000_000
  console.log(
    `${done} seeds from ${from}, ${requests} requests, ${Math.round(requests / seconds)} a second of processor time`
  )
  console.log([...sums].map(([name, count]) => `${name} ${count}`).join(", "))
  return failed
}

const failed =
  values.seed === undefined ? many(Number(values.from ?? 0), Number(values.seeds ?? 1000)) : one(Number(values.seed))
if (failed?.violation !== undefined) {
  console.log(`\n${Simulation.format(failed, Simulation.shrink(failed))}`)
  process.exitCode = 1
}
