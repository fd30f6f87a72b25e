/**
 * A simulated provider that becomes slow, or refuses, when it has too many calls, and the ways to find out how many it takes. Prints the
 * table of docs/decisions when it is run: `npm run example test/support/congestion.ts`.
 */
import { Congestion, Gate } from "@llm-resilience/core"

/** A way to find the limit. */
export interface Limiter {
  readonly name: string
  readonly limit: () => number
  readonly answered: (millis: number, inFlight: number) => void
  readonly rejected: (sentAt: number, now: number) => void
}

export const fixed = (limit: number): Limiter => ({
  name: `fixed at ${limit}`,
  limit: () => limit,
  answered: () => {},
  rejected: () => {}
})

export const congestion = (name: string, tolerance: number): Limiter => {
  const settings: Congestion.Settings = { min: 1, max: 200, initial: 10, tolerance, backoff: 0.7, window: 20 }
  let state = Congestion.initial(settings)
  const apply = (event: Congestion.Event) => {
    state = Congestion.step(settings, state, event)
  }
  return {
    name,
    limit: () => Congestion.limitOf(state),
    answered: (millis, inFlight) => apply({ _tag: "Answered", inFlight, latency: { kind: "firstContent", millis } }),
    rejected: (sentAt, now) => apply({ _tag: "Rejected", sentAt, now })
  }
}

/** The gradient of Netflix' concurrency-limits (Gradient2): long-term over short-term latency, smoothed, plus a fixed queue. */
export const gradient = (): Limiter => {
  let limit = 10
  let usual = 0
  let seen = 0
  return {
    name: "gradient of latency",
    limit: () => Math.floor(limit),
    answered: (millis, inFlight) => {
      seen += 1
      usual = seen <= 10 ? usual + (millis - usual) / seen : usual + (millis - usual) * (2 / 601)
      if (usual / millis > 2) usual *= 0.95
      if (inFlight < limit / 2) return
      const slope = Math.max(0.5, Math.min(1, (1.5 * usual) / millis))
      limit = Math.max(1, Math.min(200, limit * 0.8 + 0.2 * (limit * slope + 4)))
    },
    rejected: () => {}
  }
}

/** How a provider behaves: how many calls it takes at a time, at each second, and from how many on it refuses. */
export interface Scenario {
  readonly name: string
  readonly capacity: (second: number) => number
  readonly refuses: (second: number) => number
  readonly callsPerSecond: number
}

export const scenarios: ReadonlyArray<Scenario> = [
  { name: "slow beyond 32", capacity: () => 32, refuses: () => Infinity, callsPerSecond: 8 },
  { name: "slow beyond 128", capacity: () => 128, refuses: () => Infinity, callsPerSecond: 32 },
  { name: "refuses beyond 32", capacity: () => 32, refuses: () => 32, callsPerSecond: 8 },
  {
    name: "32, then 8 for 5 minutes",
    capacity: (second) => (second >= 600 && second < 900 ? 8 : 32),
    refuses: () => Infinity,
    callsPerSecond: 8
  }
]

/** What came of it. Latencies are those of first content, without the time in our own line. */
export interface Outcome {
  readonly answered: number
  readonly rejected: number
  readonly p50: number
  readonly p95: number
  /** The mean limit of the last ten minutes. */
  readonly limit: number
}

/** Half an hour of calls that come at random. The provider shares its capacity evenly among the calls under way. */
export const simulate = (limiter: Limiter, scenario: Scenario, seed: number): Outcome => {
  const random = generator(seed)
  const spread = (median: number, sigma: number) => {
    const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
    return median * Math.exp(sigma * normal)
  }
  interface Call extends Gate.Waiter {
    readonly arrivedAt: number
    sentAt: number
    first: number
    rest: number
    inFlight: number
    spoke: boolean
  }
  const rules = { queue: 20, reserved: 0.2 }
  let state = Gate.initial<Call>(limiter.limit())
  const running = new Set<Call>()
  const latencies: Array<number> = []
  const limits: Array<number> = []
  let answered = 0
  let rejected = 0
  let now = 0
  let next = 0
  const tick = 0.02

  const apply = (event: Gate.Event<Call>) => {
    const [after, decision] = Gate.step(rules, state, event)
    state = after
    if (decision._tag === "Opened") decision.passed.forEach(send)
    return decision
  }
  const finish = (call: Call) => {
    running.delete(call)
    apply({ _tag: "Resize", limit: limiter.limit() })
    apply({ _tag: "Finish", priority: "normal" })
  }
  const send = (call: Call) => {
    call.sentAt = now
    call.inFlight = Gate.inFlight(state)
    if (running.size < scenario.refuses(now)) return void running.add(call)
    rejected += 1
    limiter.rejected(call.sentAt * 1000, now * 1000)
    finish(call)
  }

  for (; now < 1800; now += tick) {
    while (next <= now) {
      next += -Math.log(1 - random()) / scenario.callsPerSecond
      const call: Call = {
        priority: "normal",
        arrivedAt: now,
        sentAt: 0,
        first: spread(0.6, 0.5),
        rest: spread(4, 0.8),
        inFlight: 0,
        spoke: false
      }
      if (apply({ _tag: "Arrive", waiter: call, mayWait: true })._tag === "Passed") send(call)
    }
    for (const waiter of state.lines.normal) if (now - waiter.arrivedAt > 1) apply({ _tag: "Leave", waiter })
    const share = tick * Math.min(1, scenario.capacity(now) / Math.max(1, running.size))
    for (const call of Array.from(running)) {
      if (call.first > 0) call.first -= share
      else call.rest -= share
      if (call.first <= 0 && !call.spoke) {
        call.spoke = true
        const millis = (now - call.sentAt) * 1000
        latencies.push(millis)
        limiter.answered(millis, call.inFlight)
        apply({ _tag: "Resize", limit: limiter.limit() })
      }
      if (call.rest > 0) continue
      answered += 1
      finish(call)
    }
    if (now >= 1200) limits.push(limiter.limit())
  }
  const sorted = latencies.toSorted((left, right) => left - right)
  const at = (share: number) => Math.round(sorted[Math.floor(sorted.length * share)] ?? 0)
  const limit = limits.reduce((sum, each) => sum + each, 0) / limits.length
  return { answered, rejected, p50: at(0.5), p95: at(0.95), limit: Math.round(limit) }
}

const generator = (seed: number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

if (import.meta.main) {
  for (const scenario of scenarios) {
    const limiters = [
      fixed(32),
      fixed(128),
      gradient(),
      congestion("AIMD, refusals only", Infinity),
      congestion("AIMD, refusals and latency", 1.5)
    ]
    for (const limiter of limiters) {
      const { answered, limit, p50, p95, rejected } = simulate(limiter, scenario, 1)
      console.log(`| ${scenario.name} | ${limiter.name} | ${limit} | ${answered} | ${rejected} | ${p50} | ${p95} |`)
    }
  }
}
