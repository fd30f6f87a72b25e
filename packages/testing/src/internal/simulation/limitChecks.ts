import type { LlmRequest } from "@llm-resilience/core/LlmRequest"
import type * as Policy from "@llm-resilience/core/Policy"
import * as RateLimit from "@llm-resilience/core/RateLimit"
import * as RateLimitStore from "@llm-resilience/core/RateLimitStore"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"
import { dice } from "../dice.ts"
import { epsilon, type Run } from "./live.ts"
import { nameOf } from "./plan.ts"
import * as Remote from "./remote.ts"
import { tap } from "./tap.ts"

/** The rate limit that processes share: what they start together, and what the limit costs a call. */
export interface LimitChecks {
  /** The limit of a step in one process, with the checks around it. */
  readonly policy: (step: number, place: Remote.Place) => Policy.Policy
  /** The store does what it is asked from now on. */
  readonly heal: () => void
  /** Of a process that was not killed: what it took has been used or given back. */
  readonly atRest: Effect.Effect<void>
}

/** A call on its way through the limit. */
interface Entry {
  readonly at: number
  passed: boolean
}

interface Entering extends LlmRequest {
  readonly entry?: Entry
}

/** What one process took and gave back, as far as it was told, and what it used. */
interface Account {
  readonly place: Remote.Place
  granted: number
  denied: number
  used: number
  /** Calls that were let pass when their time was over: they may have waited until then, or not have been answered until then. */
  late: number
  given: number
  refused: number
  failures: number
  leftAloneUntil: number
  leftAloneSince: number
}

/** How long a store that fails three times in a row is left alone. */
const rest = 10_000

export const make = (run: Run): LimitChecks => {
  const { counts, plan, time, trace, violate } = run
  const { limit, travel } = plan.replicas ?? { travel: 0 }
  const memory = RateLimitStore.makeMemory()
  const accounts: Array<Account> = []
  const fates = dice(plan.seed, 600)
  const ways = dice(plan.seed, 601)
  let healed = false
  let troubledUntil = -Infinity
  let level = limit?.requestsPerMinute ?? 0
  let filledAt = 0

  const fateOf = (): Remote.Fate => {
    if (limit === undefined || healed) return "well"
    const now = time.now()
    const isOut = limit.outages.some(({ from, to }) => from <= now && now < to)
    if (!isOut && !fates.chance(limit.trouble)) return "well"
    // Whoever was not answered may let calls pass, and leave the store alone, for as long.
    troubledUntil = now + Remote.late + rest
    return isOut ? "lost" : fates.pick(["refused", "lost", "broken", "unanswered", "late"])
  }

  const storeOf = (account: Account, remote: Remote.Remote): RateLimitStore.RateLimitStore["Service"] => {
    const asked = <A>(operation: "take" | "give", command: Effect.Effect<A, RateLimitStore.RateLimitStoreError>) =>
      Effect.suspend(() => {
        const now = time.now()
        if (run.strict && account.leftAloneSince < now && now < account.leftAloneUntil - epsilon) {
          violate("a store that fails is left alone", `${operation} at ${now}`)
        }
        const refusal = () => new RateLimitStore.RateLimitStoreError({ operation, cause: "simulated" })
        return Effect.onExit(remote.carry(command, fateOf(), refusal), (exit) =>
          Effect.sync(() => {
            if (Exit.isSuccess(exit)) account.failures = 0
            else if (++account.failures >= 3) {
              account.leftAloneSince = time.now()
              account.leftAloneUntil = time.now() + rest
            }
          })
        )
      })
    return {
      take: (key, parts, maxWait) =>
        Effect.map(asked("take", memory.take(key, parts, maxWait)), (answer) => {
          const amount = amountOf(parts)
          trace.add(time.now(), answer.taken ? "limit taken" : "limit denied", 0, answer.wait)
          if (answer.taken) account.granted += amount
          else if (amount > 0) account.denied++
          return answer
        }),
      give: (key, parts) =>
        Effect.suspend(() => {
          trace.add(time.now(), "limit given", 0)
          account.given += amountOf(parts)
          return asked("give", memory.give(key, parts))
        }),
      tell: memory.tell,
      peek: () => 0
    }
  }

  // A bucket that whoever passes takes from when he does: it is never more than empty. While a meter is full and an answer on its way, it does not
  // count what would have been filled.
  const checkRate = (step: number, amount: number): void => {
    if (limit === undefined) return
    const now = time.now()
    const { requestsPerMinute: rate } = limit
    level = Math.min(rate, level + ((now - filledAt) * rate) / 60_000) - amount
    filledAt = now
    if (now <= troubledUntil) level = rate
    const slack = ((2 * travel + 1) * rate) / 60_000
    if (level < -slack) violate("processes together keep to a limit", `${-level} calls of ${nameOf(step)} too many`)
  }

  const checkWait = (entry: Entry, most: number, what: string): void => {
    const waited = time.now() - entry.at
    if (waited > most + epsilon) {
      violate("a shared limit delays nobody longer than it may", `${what} after ${waited} ms instead of ${most}`)
    }
  }

  const policy: LimitChecks["policy"] = (step, place) => {
    if (limit?.step !== step) return Effect.succeed
    const { maxWait, requestsPerMinute, storeWithin } = limit
    const account: Account = {
      place,
      granted: 0,
      denied: 0,
      used: 0,
      late: 0,
      given: 0,
      refused: 0,
      failures: 0,
      leftAloneUntil: -Infinity,
      leftAloneSince: -Infinity
    }
    accounts.push(account)
    const store = storeOf(account, Remote.make(time, place, ways, travel))

    const refused = (entry: Entry): Effect.Effect<void> =>
      Effect.sync(() => {
        if (entry.passed) return
        checkWait(entry, storeWithin, "refused")
        if (++account.refused > account.denied) {
          violate("a store that fails lets calls pass", `${nameOf(step)} refused a call that the store did not`)
        }
      })
    const entering: Policy.Policy = (self) =>
      Effect.succeed({
        ...self,
        generate: (request) =>
          Effect.suspend(() => {
            const entry = { at: time.now(), passed: false }
            const entered: Entering = { ...request, entry }
            return Effect.tapError(self.generate(entered), () => refused(entry))
          }),
        stream: (request) =>
          Stream.suspend(() => {
            const entry = { at: time.now(), passed: false }
            const entered: Entering = { ...request, entry }
            return Stream.tapError(self.stream(entered), () => refused(entry))
          })
      })
    const passing = tap<{ readonly isCall: boolean }>({
      started: (request: Entering) => {
        const now = time.now()
        const { entry, expiresAt, stepsLeft } = request
        counts.limited++
        if (entry !== undefined) {
          entry.passed = true
          checkWait(entry, storeWithin + (maxWait ?? (stepsLeft === 0 ? 1000 : 0)), "passed")
        }
        if (now > expiresAt + epsilon) violate("no attempt after the deadline", `${nameOf(step)} at ${now}`)
        // Nobody is called for whoever has no time left.
        const isCall = now < expiresAt - epsilon
        if (isCall) {
          account.used++
          checkRate(step, 1)
        } else account.late++
        return { isCall }
      },
      committed: () => {},
      ended: ({ isCall }, outcome) => {
        if (!isCall || outcome._tag !== "Failed" || outcome.error._tag !== "LlmUnavailable") return
        account.used--
        checkRate(step, -1)
      }
    })
    return (self) =>
      passing(self).pipe(
        Effect.flatMap(RateLimit.policyStored({ key: keyOf(step), requestsPerMinute, maxWait, storeWithin })),
        Effect.provideService(RateLimitStore.RateLimitStore, store),
        Effect.flatMap(entering)
      )
  }

  return {
    policy,
    heal: () => {
      healed = true
    },
    atRest: Effect.gen(function* () {
      if (limit === undefined) return
      // Whoever was slow to give back has done so, and a meter is filled in a minute.
      yield* Effect.sleep(60_000 + Remote.late)
      for (const { given, granted, late, place, used } of accounts) {
        if (place.isKilled || limit.trouble > 0 || limit.outages.length > 0) continue
        const kept = granted - used - given
        if (kept < 0 || kept > late) {
          violate("what was taken and not used is given back", `${granted} taken, ${used} used, ${given} given back`)
        }
      }
      const rate = limit.requestsPerMinute
      const { left } = yield* memory.take(keyOf(limit.step), [{ name: "requests", amount: 0, perMinute: rate }], 0)
      if ((left[0] ?? 0) < rate - epsilon) violate("what was taken comes back", `${left[0]} of ${rate} are left`)
    }).pipe(Effect.orDie)
  }
}

const keyOf = (step: number): string => `limit of ${nameOf(step)}`

const amountOf = (parts: ReadonlyArray<RateLimitStore.Part>): number => parts[0]?.amount ?? 0
