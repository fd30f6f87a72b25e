import type { Simulation } from "@llm-resilience/testing"

/**
 * Two models that never fail behind every policy, and so many requests that building the chain is no part of it.
 *
 * The slowest answer takes thirteen times the latency, and a step gets at least half of a deadline, of which the shortest is 300 ms: so every
 * request is answered by its first call.
 */
export const happy = (plan: Simulation.Plan): Simulation.Plan => {
  const step: Simulation.Plan["steps"][number] = {
    ...plan.steps[0],
    latency: 10,
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
