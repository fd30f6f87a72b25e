import { dice, type Dice } from "../dice.ts"
import {
  type Asked,
  type Breaker,
  type Deferred,
  type FaultKind,
  faults,
  type Gate,
  onGrid,
  type Plan,
  type Step
} from "./plan.ts"
import { drawReplicas } from "./replicas.ts"

/** Draws the plan of a seed. */
export const draw = (seed: number): Plan => {
  const d = dice(seed, 100)
  const count = d.pick([1, 2, 2, 2, 3, 3, 4])
  const requests = d.pick([20, 60, 120, 240])
  const every = d.pick([20, 100, 400, 1500])
  const millis = Math.max(20_000, requests * every)
  const calm = d.chance(0.15)
  const equals = d.chance(0.25)
  const steps = Array.from({ length: count }, (_, index) =>
    drawStep(dice(seed, 200 + index), dice(seed, 250 + index), equals ? 0 : index, millis, calm)
  )
  const [first = drawStep(d, d, 0, millis, calm), ...others] = steps
  const sometimes = (share: number, most: number) => (d.chance(share) ? d.between(0, most) : 0)
  // What was added later is drawn apart, so that the older part of a seed stays as it was.
  const later = dice(seed, 101)
  const seldom = (share: number) => (later.chance(share) ? later.between(0, 0.5) : 0)
  const single = later.chance(0.25) ? drawDeferred(later) : undefined
  const replicas = drawReplicas(seed, count, millis)
  const apart = dice(seed, 103)
  // What is left behind by a process is seen in the queue. There each process has one worker.
  const shared = replicas === undefined ? single : (single ?? (apart.chance(0.5) ? drawDeferred(apart) : undefined))
  const deferred = shared === undefined || replicas === undefined ? shared : { ...shared, workers: 1 }
  return {
    seed,
    order: d.chance(0.5) ? "random" : "fifo",
    preemption: d.chance(0.1) ? d.pick([0.001, 0.02]) : 0,
    grid: d.pick([1, 10, 50]),
    millis,
    requests: Array.from({ length: requests }, (_, index) => index),
    traffic: {
      every,
      bursts: sometimes(0.4, 0.5),
      streams: d.chance(0.3) ? d.between(0, 0.6) : 0,
      deadlines: d.between(0.3, 1),
      leaves: sometimes(0.5, 0.3),
      slowReaders: sometimes(0.3, 0.5),
      stopsEarly: sometimes(0.3, 0.2),
      questions: d.pick([2, 5, 40]),
      scopes: d.int(1, 3),
      toolsets: d.pick([1, 1, 2]),
      invalid: sometimes(0.3, 0.1),
      tooLong: sometimes(0.2, 0.1),
      refused: sometimes(0.2, 0.1),
      neverCached: sometimes(0.3, 0.3),
      json: seldom(0.15),
      toolCalls: seldom(0.15),
      waits: single === undefined ? (deferred === undefined ? 0 : apart.between(0.3, 1)) : later.between(0.3, 1),
      keyed: seldom(0.5),
      cancels: seldom(0.3)
    },
    steps: [first, ...others],
    chain: {
      deadline: d.chance(0.5) ? d.pick([5000, 20_000]) : undefined,
      share: d.pick([0.5, 2 / 3, 1]),
      lastResortEvery: d.pick([200, 1000, 5000]),
      recovery: d.pick(["continue", "restart", "fail"]),
      attempts: d.pick([2, 5, 12]),
      hedge: d.chance(0.2) ? d.pick([100, 1000]) : undefined,
      routing: d.pick(["ordered", "weighted", "least-latency", "least-busy"])
    },
    health: d.chance(0.25) ? { interval: d.pick([5000, 30_000]), timeout: d.pick([500, 5000]) } : undefined,
    cache: d.chance(0.2)
      ? {
          mode: d.pick(["if-unavailable", "if-unavailable", "read-through", "stale-if-slow"]),
          fresh: d.pick([1000, 10_000, 3_600_000]),
          stale: d.pick([30_000, 3_600_000, 86_400_000]),
          slowAfter: d.pick([200, 2000]),
          match: later.pick(["exact", "canonical", "similar"]),
          embedding: later.pick([0, 20, 400])
        }
      : undefined,
    deferred,
    requeues:
      deferred !== undefined && apart.chance(0.5)
        ? Array.from({ length: apart.int(2, 8) }, () => apart.int(0, millis + 60_000))
        : [],
    replicas,
    sameAnswers: d.chance(0.5),
    operator: d.chance(0.2)
      ? Array.from({ length: d.int(1, 4) }, () => ({
          at: d.int(0, millis),
          step: d.int(0, count - 1),
          action: d.pick(["isolate", "reset", "halfOpen"]),
          duration: d.pick([500, 5000, 30_000])
        }))
      : [],
    wallSteps: d.chance(0.3)
      ? Array.from({ length: d.int(1, 3) }, () => ({
          at: d.int(0, millis),
          by: d.pick([-3_600_000, -5000, 5000, 3_600_000])
        }))
      : []
  }
}

const drawStep = (d: Dice, later: Dice, priority: number, millis: number, calm: boolean): Step => {
  const latency = d.pick([20, 150, 600, 2500])
  const rates: { [K in FaultKind]?: number } = {}
  if (!calm) for (const fault of faults) if (d.chance(0.25)) rates[fault] = d.pick([0.01, 0.05, 0.2])
  const outages = calm
    ? []
    : Array.from({ length: d.pick([0, 0, 1, 1, 2]) }, () => {
        const from = d.int(0, millis)
        return { from, to: from + d.int(500, Math.max(1000, millis / 3)), as: d.pick(faults) }
      })
  const attempt = d.pick([800, 3000, 10_000, 30_000])
  return {
    priority,
    weight: d.int(1, 3),
    latency,
    spread: d.pick([0, 0.3, 1]),
    tokenEvery: d.pick([0, 20, 100]),
    faults: rates,
    outages,
    cleanup: d.pick([0, 0, 0, 30, 4000]),
    prefill: d.pick(["no", "yes", "yes", "ignored"]),
    badJson: calm ? 0 : later.pick([0, 0.1, 0.5]),
    contextWindow: d.chance(0.3) ? d.pick([1000, 200_000]) : undefined,
    retry: d.chance(0.85)
      ? {
          retries: d.int(0, 3),
          base: d.pick([10, 500]),
          cap: d.pick([1000, 8000]),
          maxRetryAfter: d.pick([1000, 5000])
        }
      : undefined,
    cooldown: d.chance(0.85)
      ? { rest: d.pick([500, 5000]), maxRest: d.pick([5000, 60_000]), isolation: d.pick([2000, 60_000]) }
      : undefined,
    bulkhead: d.chance(0.25) ? drawGate(d) : undefined,
    throttle: d.chance(0.5) ? { minimumCalls: d.pick([2, 20]) } : undefined,
    rateLimit: d.chance(0.2) ? { requestsPerMinute: d.pick([6, 60, 600]), maxWait: d.pick([200, 2000]) } : undefined,
    adaptive: d.chance(0.2) ? drawGate(d) : undefined,
    breaker: d.chance(0.9) ? drawBreaker(d) : undefined,
    budget: d.chance(0.6)
      ? { ratio: d.pick([0, 0.1, 0.2]), floor: d.pick([0, 2, 10]), halfLife: d.pick([10_000, 60_000]) }
      : undefined,
    hedge: d.chance(0.1) ? d.pick([60, 500]) : undefined,
    timeouts: {
      attempt,
      firstToken: d.pick([attempt, 500, 5000]),
      idle: d.pick([300, 5000]),
      ending: d.chance(0.2) ? "hard" : "cooperative"
    }
  }
}

const drawDeferred = (d: Dice): Deferred => ({
  capacity: d.pick([1, 5, 100]),
  expiresAfter: d.pick([3000, 60_000, 86_400_000]),
  maxAttempts: d.pick([1, 3, 10]),
  backoff: d.pick([100, 5000]),
  maxBackoff: d.pick([5000, 60_000]),
  concurrency: d.pick([1, 2, 4]),
  every: d.pick([10, 1000]),
  deadline: d.pick([2000, 30_000]),
  lease: d.pick([2000, 60_000]),
  pollInterval: d.pick([1500, 15_000]),
  handlerFails: d.pick([0, 0.3]),
  workers: d.pick([1, 2]),
  renewalFails: d.pick([0, 0, 1])
})

const drawGate = (d: Dice): Gate => ({
  permits: d.pick([1, 2, 10]),
  queue: d.pick([0, 2, 10]),
  maxWait: d.pick([100, 2000])
})

const drawBreaker = (d: Dice): Breaker => {
  const rate = () => ({
    failureRate: d.pick([0.2, 0.5, 1]),
    slowAfter: d.chance(0.4) ? d.pick([200, 2000]) : undefined,
    slowRate: d.pick([0.5, 1])
  })
  const size = d.pick([2, 5, 20])
  return {
    trip: d.chance(0.5)
      ? { _tag: "Consecutive", failures: d.int(1, 6) }
      : d.chance(0.5)
        ? { _tag: "Count", size, minimumCalls: d.int(1, size), ...rate() }
        : { _tag: "Time", millis: d.pick([1000, 10_000, 60_000]), minimumCalls: d.int(1, 10), ...rate() },
    openFor: d.pick([300, 2000, 10_000, 60_000]),
    maxOpenFor: d.pick([60_000, 120_000]),
    probes: d.pick([1, 1, 1, 2, 3]),
    probeLease: d.pick([400, 5000, 60_000]),
    probeFailureRate: d.pick([0, 0, 0.5]),
    slowStart: d.pick([0, 1000, 20_000])
  }
}

/** The requests of a plan, in no special order. */
export const asked = (plan: Plan): ReadonlyArray<Asked> =>
  plan.requests.map((index) => {
    const d = dice(plan.seed, 300, index)
    const later = dice(plan.seed, 301, index)
    const { cache, traffic } = plan
    // A burst puts a request to the moment of another one.
    const slot = d.chance(traffic.bursts) ? Math.floor(index / 8) * 8 : index + d.next()
    const stream = d.chance(traffic.streams)
    const deadline = d.chance(traffic.deadlines) ? d.pick([300, 2000, 8000, 30_000]) : undefined
    const kind = d.next()
    const wanted = later.chance(traffic.toolCalls) ? "tool" : later.chance(traffic.json) ? "json" : "text"
    const toolset = (): number => d.int(0, traffic.toolsets - 1)
    return {
      index,
      at: onGrid(plan, slot * traffic.every),
      stream,
      deadline,
      leavesAfter: d.chance(traffic.leaves) ? onGrid(plan, d.pick([0, 100, 1000, 5000]) * d.next()) : undefined,
      readerPause: stream && d.chance(traffic.slowReaders) ? d.pick([50, 700]) : 0,
      stopsAfter: stream && d.chance(traffic.stopsEarly) ? d.int(1, 8) : undefined,
      question: d.int(0, traffic.questions - 1),
      scope: d.int(0, traffic.scopes - 1),
      toolset: wanted === "tool" ? Math.max(1, toolset()) : toolset(),
      kind:
        kind < traffic.invalid
          ? "invalid"
          : kind < traffic.invalid + traffic.tooLong
            ? "tooLong"
            : kind < traffic.invalid + traffic.tooLong + traffic.refused
              ? "refused"
              : "ordinary",
      mayCache: !d.chance(traffic.neverCached),
      priority: d.pick(["critical", "normal", "normal", "batch"]),
      wanted,
      phrasing: cache === undefined || cache.match === "exact" ? "plain" : later.pick(["plain", "spelled", "turned"]),
      mayWait: later.chance(traffic.waits),
      keyed: later.chance(traffic.keyed),
      cancelsAfter: later.chance(traffic.cancels) ? later.pick([0, 1000, 20_000]) : undefined
    }
  })
