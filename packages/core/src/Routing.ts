/**
 * The order in which steps of equal priority are asked.
 *
 * Priorities come first: a step is asked only when none before it could answer. Among steps of equal priority the healthiest go first (one
 * whose circuit may be probed counts as healthy, so that it comes back), and the rest is a matter of strategy. Everything here is a plain function of what is known at one moment.
 *
 * **Strategies**
 *
 * - `ordered`: as they are written.
 * - `weighted` (default): in turn, in proportion to their weights, evenly interleaved (the smooth weighted round robin of nginx).
 * - `least-latency`: the smallest product of mean latency and calls under way ("peak EWMA", Finagle), so that a fast step is not asked until it
 *   is slow. A step that nobody has measured yet counts as half as slow as the fastest. What was measured fades by half in 30 s without a call, so
 *   that one slow answer does not cost a step all later ones.
 * - `least-busy`: the fewest calls under way for its weight.
 * - `cheapest`: the lowest price, at three input tokens for each output token; unknown prices last.
 * - a function of your own. Where it throws, the event `DefectCaught` tells, and the steps are asked as they are written.
 *
 * `sticky` sends requests with the same key to the same step as long as it is healthy and not overloaded, so that the prompt cache of a provider
 * is of use: rendezvous hashing with bounded loads (Thaler and Ravishankar 1998; Mirrokni, Thorup and Zadimoghaddam 2018).
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import { fade } from "./internal/decay.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import type { Provider } from "./Provider.ts"
import type { Method, Reading } from "./Vitals.ts"

/**
 * One step and what is known about it.
 *
 * **Details**
 *
 * `latency` is the mean in milliseconds for this kind of call, `inFlight` the calls under way, `price` in US dollars for a million tokens. What is
 * unknown is absent.
 *
 * @category models
 * @since 0.1.0
 */
export interface Candidate {
  readonly provider: Provider
  readonly weight: number
  readonly health: "healthy" | "degraded" | "unhealthy"
  readonly latency: number | undefined
  readonly inFlight: number
  readonly price: number | undefined
}

/**
 * How steps of equal priority are ordered. A function returns all of them or some: those that it leaves out are asked last.
 *
 * @category models
 * @since 0.1.0
 */
export type Strategy =
  | "ordered"
  | "weighted"
  | "least-latency"
  | "least-busy"
  | "cheapest"
  | ((candidates: ReadonlyArray<Candidate>, request: LlmRequest) => ReadonlyArray<Candidate>)

/**
 * Options of routing.
 *
 * **Details**
 *
 * `sticky` gives the key that keeps requests together, or `undefined` for a request that may go anywhere. `maxLoad` is how much more than its
 * share a step may have under way before requests with its keys go elsewhere, 1.25 by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly strategy?: Strategy | undefined
  readonly sticky?: ((request: LlmRequest) => string | undefined) | undefined
  readonly maxLoad?: number | undefined
}

/**
 * A step with its place in the chain.
 *
 * @category models
 * @since 0.1.0
 */
export interface Member {
  readonly provider: Provider
  readonly priority: number
  readonly weight: number
}

/**
 * Creates the function that orders the members of a chain for one request.
 *
 * **Details**
 *
 * Members are sorted by priority. Where no two priorities are equal, the order never changes and costs nothing. `now` is in monotonic
 * milliseconds. Round robin is the only state: a few numbers for each order in which members were out.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  members: ReadonlyArray<Member>,
  options?: Options
): ((request: LlmRequest, method: Method, now: number) => ReadonlyArray<Provider>) => {
  const strategy = options?.strategy ?? "weighted"
  const maxLoad = options?.maxLoad ?? 1.25
  if (!(maxLoad >= 1)) throw new RangeError(`Routing.make: maxLoad must be at least 1, got ${maxLoad}`)
  for (const { provider, weight } of members) {
    if (!(weight > 0 && Number.isFinite(weight))) {
      throw new RangeError(`Routing.make: the weight of "${provider.id}" must be a finite number > 0, got ${weight}`)
    }
  }
  const groups = [...Map.groupBy(members, ({ priority }) => priority)]
    .toSorted(([left], [right]) => left - right)
    .map(([, group]) => ({ group, turn: roundRobin(group.map(({ weight }, index) => [index, weight])) }))
  const fixed = groups.flatMap(({ group }) => group.map(({ provider }) => provider))
  if (groups.every(({ group }) => group.length === 1)) return () => fixed

  return (request, method, now) =>
    groups.flatMap(({ group, turn }) => {
      const [only] = group
      if (group.length === 1 && only !== undefined) return [only.provider]
      const candidates = group.map((member) => candidateOf(member, method, now))
      const key = options?.sticky?.(request)
      const chosen =
        key !== undefined
          ? stickyFirst(candidates, key, maxLoad)
          : strategy === "weighted"
            ? turn().flatMap((index) => candidates[index] ?? [])
            : typeof strategy === "function"
              ? [...new Set([...strategy(candidates, request), ...candidates])].filter((one) =>
                  candidates.includes(one)
                )
              : sortBy(candidates, strategy === "least-latency" ? latencyCost(candidates) : costs[strategy])
      return sortBy(chosen, ({ health }) => ranks[health]).map(({ provider }) => provider)
    })
}

const candidateOf = ({ provider, weight }: Member, method: Method, now: number): Candidate => {
  const reading = provider.vitals?.at(now)
  const price = provider.capabilities.price
  return {
    provider,
    weight,
    health: isBack(provider, now) ? "healthy" : (provider.health?.(now) ?? "healthy"),
    latency: reading === undefined ? undefined : faded(reading, method, now),
    inFlight: reading?.inFlight ?? 0,
    price: price === undefined ? undefined : (3 * price.inputPerMillion + price.outputPerMillion) / 4
  }
}

const faded = ({ latency, measuredAt }: Reading, method: Method, now: number): number | undefined => {
  const mean = latency[method]
  return mean === undefined ? undefined : mean * fade(now - measuredAt[method], 30_000)
}

// A step whose circuit may be probed, or that starts slowly, takes its place again: who is asked last is never asked while the others are
// well, and would stay open for ever. Its breaker sees to it that only a few calls find out.
const isBack = (provider: Provider, now: number): boolean => {
  const circuit = provider.circuits.get(provider.id)?.at(now)
  switch (circuit?._tag) {
    case "Open":
      return Duration.toMillis(circuit.retryAfter) === 0
    case "HalfOpen":
      return true
    default:
      return circuit?._tag === "Closed" && circuit.limit !== undefined
  }
}

const ranks = { healthy: 0, degraded: 1, unhealthy: 2 }

// Without any measurement it is the number of calls under way that counts.
const latencyCost = (candidates: ReadonlyArray<Candidate>): ((candidate: Candidate) => number) => {
  const least = candidates.reduce((least, { latency }) => Math.min(least, latency ?? Infinity), Infinity)
  const unknown = least === Infinity ? 1 : least / 2
  return ({ inFlight, latency }) => (latency ?? unknown) * (inFlight + 1)
}

const costs: {
  readonly [S in Exclude<Strategy, "weighted" | "least-latency" | Function>]: (candidate: Candidate) => number
} = {
  ordered: () => 0,
  "least-busy": ({ inFlight, weight }) => inFlight / weight,
  cheapest: ({ price }) => price ?? Infinity
}

// Stable, so that what costs the same stays as it was.
const sortBy = (
  candidates: ReadonlyArray<Candidate>,
  cost: (candidate: Candidate) => number
): ReadonlyArray<Candidate> =>
  candidates.toSorted((left, right) => {
    const [one, other] = [cost(left), cost(right)]
    return one === other ? 0 : one - other
  })

// Everybody gains its weight each turn, and the one that has most pays for all. Who follows it takes turns as well: otherwise all the load of
// a step that is gone would fall on the same other one. Three deep, that is a bounded number of states.
const roundRobin = (
  members: ReadonlyArray<readonly [index: number, weight: number]>,
  depth = 3
): (() => ReadonlyArray<number>) => {
  const written = members.map(([index]) => index)
  if (depth === 0 || members.length < 2) return () => written
  const total = members.reduce((sum, [, weight]) => sum + weight, 0)
  const credit = new Map(members.map(([index]) => [index, 0]))
  const followers = new Map<number, () => ReadonlyArray<number>>()
  return () => {
    let first = -1
    for (const [index, weight] of members) {
      credit.set(index, (credit.get(index) ?? 0) + weight)
      if (first === -1 || (credit.get(index) ?? 0) > (credit.get(first) ?? 0)) first = index
    }
    credit.set(first, (credit.get(first) ?? 0) - total)
    const next =
      followers.get(first) ??
      roundRobin(
        members.filter(([index]) => index !== first),
        depth - 1
      )
    followers.set(first, next)
    return [first, ...next()]
  }
}

const stickyFirst = (candidates: ReadonlyArray<Candidate>, key: string, maxLoad: number): ReadonlyArray<Candidate> => {
  const busy = candidates.reduce((sum, { inFlight }) => sum + inFlight, 0) + 1
  const weights = candidates.reduce((sum, { weight }) => sum + weight, 0)
  const full = ({ inFlight, weight }: Candidate): boolean => inFlight >= Math.ceil((maxLoad * busy * weight) / weights)
  const scored = sortBy(candidates, ({ provider, weight }) => Math.log(share(`${provider.id}\n${key}`)) / -weight)
  return sortBy(scored, (candidate) => (full(candidate) ? 1 : 0))
}

// FNV-1a with the finish of MurmurHash3, as a number between zero and one, both excluded.
const share = (text: string): number => {
  let hash = 0x811c9dc5
  for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (((hash ^ (hash >>> 16)) >>> 0) + 0.5) / 0x100000000
}
