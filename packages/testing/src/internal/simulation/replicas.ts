import { dice, type Dice } from "../dice.ts"

/** The processes of one application, and what they have in common: limits and the deferred queue are kept elsewhere. */
export interface Replicas {
  readonly count: number
  /** The longest that a command takes to a store that they share, and the longest that its answer takes. */
  readonly travel: number
  /** How often the store of the queue says that it failed, whether it has done what it was asked or not. */
  readonly trouble: number
  readonly limit: SharedLimit | undefined
  readonly stops: ReadonlyArray<Stop>
}

/** A rate limit around one step of all processes, whose meter they share. */
export interface SharedLimit {
  readonly step: number
  readonly requestsPerMinute: number
  readonly maxWait: number | undefined
  readonly storeWithin: number
  /** How often the store does not do what it is asked, or says nothing of it, or too late. */
  readonly trouble: number
  readonly outages: ReadonlyArray<{ readonly from: number; readonly to: number }>
}

/** The end of a process: killed from outside in the middle of whatever it does, or shut down, with the memory of its breakers kept. */
export interface Stop {
  readonly at: number
  readonly replica: number
  readonly how: "killed" | "shutDown"
  /** When it comes up again, if it does. */
  readonly downFor: number | undefined
}

/** Draws the processes of a seed, apart from everything else. Most seeds have one, which lives for ever. */
export const drawReplicas = (seed: number, steps: number, millis: number): Replicas | undefined => {
  const d = dice(seed, 102)
  if (!d.chance(0.125)) return undefined
  const count = d.pick([1, 2, 2, 2])
  return {
    count,
    travel: d.pick([0, 5, 40]),
    trouble: d.pick([0, 0, 0.02, 0.1]),
    limit: d.chance(0.7) ? drawLimit(d, steps, millis) : undefined,
    stops: Array.from({ length: d.pick([0, 1, 1, 2, 3]) }, () => {
      const replica = d.int(0, count - 1)
      const how = d.pick<Stop["how"]>(["killed", "shutDown"])
      const downFor = d.pick([0, 500, 5000, 60_000])
      // Somebody has to be left when everything heals.
      return { at: d.int(0, millis), replica, how, downFor: replica > 0 && d.chance(0.3) ? undefined : downFor }
    })
  }
}

const drawLimit = (d: Dice, steps: number, millis: number): SharedLimit => ({
  // The first one is asked most.
  step: d.chance(0.7) ? 0 : d.int(0, steps - 1),
  requestsPerMinute: d.pick([6, 30, 120]),
  maxWait: d.pick([undefined, 0, 2000]),
  storeWithin: d.pick([100, 250]),
  trouble: d.pick([0, 0, 0.02, 0.2]),
  outages: d.chance(0.3)
    ? [d.int(0, millis)].map((from) => ({ from, to: from + d.int(500, Math.max(1000, millis / 3)) }))
    : []
})
