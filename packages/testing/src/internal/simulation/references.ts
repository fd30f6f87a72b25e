import type { Breaker } from "./plan.ts"

/**
 * The circuit breaker again, written for being read: it keeps every result that its window can still see and looks at them all. What it
 * says is compared with what the real one does.
 */
export interface BreakerReference {
  /** Why the breaker must refuse a call now, or `undefined` when it must admit it. */
  readonly refusal: (
    now: number,
    urgency: { readonly lastResort: boolean; readonly insists: boolean }
  ) => "CircuitOpen" | "ProbeRunning" | "Isolated" | "Recovering" | undefined
  readonly admitted: (now: number) => Ticket
  readonly committed: (ticket: Ticket, now: number) => Ticket
  readonly ended: (
    ticket: Ticket,
    verdict: "success" | "failure" | "ignored",
    retryAfter: number,
    now: number,
    duration: number
  ) => void
  readonly isolate: (now: number, duration: number) => void
  readonly reset: (now: number) => void
  readonly halfOpen: (now: number) => void
  /** An open circuit stays open for at least this long. */
  readonly hold: (now: number, millis: number) => void
  readonly state: (now: number) => "Closed" | "Open" | "HalfOpen" | "Isolated"
  /** What a process that is shut down knows, for the one that comes after it. */
  readonly kept: (now: number) => Kept
  /** When it last changed: what others saw at the same moment may be from before. */
  readonly changedAt: () => number
}

export interface Ticket {
  readonly number: number
  readonly epoch: number
  readonly startedAt: number
  readonly probe: boolean
  /** One of the first calls after a recovery. */
  readonly early: boolean
}

interface Seen {
  readonly at: number
  readonly failed: boolean
  readonly slow: boolean
}

/** What outlives the process: the calls that the window sees, and what is left of an opening. Probes and slow starts do not. */
export interface Kept {
  readonly state: "Closed" | "Open" | "Isolated"
  readonly at: number
  readonly left: number
  readonly history: ReadonlyArray<Seen>
}

export const breakerReference = (rules: Breaker, kept?: Kept, restoredAt = 0): BreakerReference => {
  const { trip } = rules
  let state: "Closed" | "Open" | "HalfOpen" | "Isolated" = "Closed"
  let epoch = 0
  let until = 0
  let openedAt = 0
  let history: Array<Seen> = []
  let admissions = 0
  // Calls that were admitted one after the other and all failed, the newest eight such rows.
  let rows: ReadonlyArray<ReadonlyArray<number>> = []
  let lastGood = -1
  let probing = new Map<Ticket, number>()
  let probed: ReadonlyArray<Seen> = []
  let changedAt = -Infinity
  // How many calls may be under way after a recovery, and which are.
  let slowly: { limit: number; readonly until: number; readonly underway: Set<Ticket> } | undefined

  const enter = (next: typeof state, now: number): void => {
    state = next
    epoch++
    history = []
    rows = []
    lastGood = -1
    probed = []
    probing = new Map()
    slowly = undefined
    changedAt = now
  }
  const close = (now: number): void => enter("Closed", now)
  const open = (now: number, retryAfter: number): void => {
    enter("Open", now)
    openedAt = now
    until = now + Math.max(rules.openFor, Math.min(retryAfter, rules.maxOpenFor))
  }
  // What time alone does.
  const elapse = (now: number): void => {
    if (slowly !== undefined && now >= slowly.until) slowly = undefined
    if (state === "Isolated" && now >= until) close(now)
    if (state !== "HalfOpen") return
    const expired = [...probing.values()].find((lease) => lease <= now)
    if (expired !== undefined) {
      open(expired, 0)
      changedAt = now
    }
  }
  const share = (seen: ReadonlyArray<Seen>, what: "failed" | "slow", total: number, rate: number): boolean => {
    const count = seen.filter((one) => one[what]).length
    return count > 0 && count / total >= rate
  }
  const bucket = (at: number) => (trip._tag === "Time" ? Math.floor(at / (trip.millis / 10)) : 0)
  const forget = (now: number): void => {
    const kept = trip._tag === "Consecutive" ? trip.failures : trip._tag === "Count" ? trip.size : Infinity
    if (history.length > kept) history.shift()
    if (trip._tag !== "Time" || bucket(history[0]?.at ?? now) > bucket(now) - 10) return
    history = history.filter(({ at }) => bucket(at) > bucket(now) - 10)
  }
  const trips = (): boolean => {
    if (trip._tag === "Consecutive") {
      const inARow = history.length >= trip.failures && history.every(({ failed }) => failed)
      return inARow || rows.some((row) => row.length >= trip.failures)
    }
    return (
      history.length >= trip.minimumCalls &&
      (share(history, "failed", history.length, trip.failureRate) ||
        share(history, "slow", history.length, trip.slowRate))
    )
  }
  const record = (ticket: Ticket, failed: boolean, retryAfter: number, now: number, duration: number): void => {
    const slow = trip._tag !== "Consecutive" && trip.slowAfter !== undefined && duration >= trip.slowAfter
    const seen = { at: now, failed, slow }
    if (state === "Closed") {
      history.push(seen)
      forget(now)
      if (!failed) lastGood = Math.max(lastGood, ticket.number)
      if (failed && ticket.number > lastGood) {
        const touches = (row: ReadonlyArray<number>) => row.some((one) => Math.abs(one - ticket.number) === 1)
        const joined = [...rows.filter(touches).flat(), ticket.number]
        rows = [...rows.filter((row) => !touches(row)), joined].slice(-8)
      } else if (!failed) rows = rows.filter((row) => Math.max(...row) > ticket.number)
      if (trips()) open(now, retryAfter)
      return
    }
    probing.delete(ticket)
    probed = [...probed, seen]
    const tooSlow = trip._tag !== "Consecutive" && share(probed, "slow", rules.probes, trip.slowRate)
    if (share(probed, "failed", rules.probes, rules.probeFailureRate) || tooSlow) open(now, retryAfter)
    else if (probed.length >= rules.probes) {
      close(now)
      if (rules.slowStart > 0) slowly = { limit: 2, until: now + rules.slowStart, underway: new Set() }
    }
  }
  const early = (ticket: Ticket, verdict: "success" | "failure" | "ignored", now: number): void => {
    if (slowly?.underway.delete(ticket) !== true) return
    if (verdict === "success") slowly.limit++
    if (verdict === "failure") slowly.limit = Math.max(1, Math.floor(slowly.limit / 2))
    changedAt = now
  }

  const admit = (now: number, number: number): Ticket => {
    elapse(now)
    if (state === "Open") enter("HalfOpen", now)
    const ticket = { number, epoch, startedAt: now, probe: state === "HalfOpen", early: slowly !== undefined }
    if (ticket.probe) probing.set(ticket, now + rules.probeLease)
    slowly?.underway.add(ticket)
    return ticket
  }

  if (kept !== undefined) {
    state = kept.state
    openedAt = restoredAt
    until = restoredAt + kept.left
    // The time in between does not count: of a window of time the newest part was yesterday what it is today.
    const width = trip._tag === "Time" ? trip.millis / 10 : 1
    const away = (bucket(restoredAt) - bucket(kept.at)) * width
    history = kept.history.map((seen) => ({ ...seen, at: seen.at + away }))
  }

  const reference: BreakerReference = {
    refusal: (now, { insists, lastResort }) => {
      elapse(now)
      if (state === "Closed") {
        return slowly === undefined || slowly.underway.size < slowly.limit || insists || lastResort
          ? undefined
          : "Recovering"
      }
      if (state === "Isolated") return "Isolated"
      if (state === "Open") return now >= until || lastResort ? undefined : "CircuitOpen"
      return probing.size + probed.length < rules.probes ? undefined : "ProbeRunning"
    },
    admitted: (now) => admit(now, admissions++),
    committed: (ticket, now) => {
      elapse(now)
      if (!ticket.probe) {
        early(ticket, "success", now)
        return ticket
      }
      if (ticket.epoch === epoch && probing.has(ticket)) record(ticket, false, 0, now, now - ticket.startedAt)
      if (state !== "Closed") return ticket
      // It is the same call still, and has shown its first content.
      const again = admit(now, ticket.number)
      early(again, "success", now)
      return again
    },
    ended: (ticket, verdict, retryAfter, now, duration) => {
      elapse(now)
      if (ticket.epoch !== epoch || (ticket.probe && !probing.has(ticket))) return
      early(ticket, verdict, now)
      if (verdict !== "ignored") record(ticket, verdict === "failure", retryAfter, now, duration)
      else if (probing.delete(ticket)) changedAt = now
    },
    isolate: (now, duration) => {
      enter("Isolated", now)
      until = now + duration
    },
    reset: (now) => close(now),
    halfOpen: (now) => {
      elapse(now)
      if (state === "Open") enter("HalfOpen", now)
    },
    hold: (now, millis) => {
      elapse(now)
      if (state === "HalfOpen" && probing.size === 0 && probed.length === 0 && now < openedAt + rules.maxOpenFor) {
        enter("Open", now)
        until = now + millis
      } else if (state === "Open") until = Math.max(until, Math.min(now + millis, openedAt + rules.maxOpenFor))
    },
    state: (now) => {
      elapse(now)
      return state
    },
    kept: (now) => {
      elapse(now)
      const left = state === "HalfOpen" ? 0 : Math.max(0, until - now)
      return { state: state === "HalfOpen" ? "Open" : state, at: now, left, history }
    },
    changedAt: () => changedAt
  }
  return reference
}

/** The rest of a provider that asked for it. */
export interface RestReference {
  readonly rests: (now: number) => boolean
  readonly asked: (now: number, millis: number) => void
  readonly wake: (now: number) => void
  readonly changedAt: () => number
}

export const restReference = (): RestReference => {
  let until = -Infinity
  let changedAt = -Infinity
  return {
    // A rest that ends within a millisecond is over, so that who waited for exactly this long is not sent away.
    rests: (now) => until - now >= 1,
    asked: (now, millis) => {
      until = Math.max(until, now + millis)
      changedAt = now
    },
    wake: (now) => {
      until = -Infinity
      changedAt = now
    },
    changedAt: () => changedAt
  }
}

/** The budget of a provider, from outside: what reached it, and how much of it was beyond one call for each request. */
export interface BudgetReference {
  readonly call: (now: number) => void
  /** Counts a retry or a hedge, and says whether it can have been granted. */
  readonly extra: (now: number) => boolean
}

export const budgetReference = (rules: {
  readonly ratio: number
  readonly floor: number
  readonly halfLife: number
}): BudgetReference => {
  let at = 0
  let calls = 0
  let extras = 0
  const fade = (now: number): void => {
    const kept = 2 ** ((at - now) / rules.halfLife)
    calls *= kept
    extras *= kept
    at = now
  }
  return {
    call: (now) => {
      fade(now)
      calls++
    },
    extra: (now) => {
      fade(now)
      extras++
      // A retry is seen when its wait is over, and was granted before it: in between half-lives may have passed.
      const longest = 2 ** (9000 / rules.halfLife)
      return extras <= longest * (rules.floor + rules.ratio * (calls + 1)) + 1
    }
  }
}
