import * as DeferredQueue from "@llm-resilience/core/DeferredQueue"
import * as DeferredStore from "@llm-resilience/core/DeferredStore"
import type { LlmUnavailable } from "@llm-resilience/core/LlmUnavailable"
import type * as Policy from "@llm-resilience/core/Policy"
import type { Failure } from "@llm-resilience/core/Provider"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import { dice } from "../dice.ts"
import type { AnswerChecks } from "./answerChecks.ts"
import { identityOf, questionOf } from "./knowledge.ts"
import * as Live from "./live.ts"
import { type Deferred, ordinary } from "./plan.ts"
import type { StepChecks } from "./stepChecks.ts"
import type { Marked } from "./world.ts"

/** What is accepted with a ticket, and what becomes of it. */
export interface DeferredChecks {
  /** Around the store: everything that the queue decides passes here. */
  readonly store: (store: DeferredStore.DeferredStore["Service"]) => DeferredStore.DeferredStore["Service"]
  /** Between the queue and the chain: what is asked to work the queue off becomes a request that is watched like all others. */
  readonly asking: Policy.Policy
  readonly terms: (request: Marked) => DeferredQueue.Terms
  readonly onSettled: (settled: DeferredQueue.Settled) => Effect.Effect<void, string>
  readonly ended: (live: Live.Live, exit: Exit.Exit<unknown, Failure>) => void
  readonly use: (queue: DeferredQueue.DeferredQueue["Service"]) => void
  /** How many tickets have not ended. */
  readonly open: () => number
  readonly atRest: Effect.Effect<void>
}

interface Ticket {
  readonly ordinal: number
  readonly name: string
  readonly expiresAt: number
  /** Whoever was given it. */
  holder: Live.Live | undefined
  /** How often it was tried and somebody was called. */
  tries: number
  /** The number of its last claim. */
  claim: number
  /** What was last asked for it. */
  asked: Live.Live | undefined
  outcome: DeferredQueue.Settled["_tag"] | undefined
  told: number
  delivered: number
}

/** How often a handler refuses a result at most. */
const refusals = 3

export const make = (run: Live.Run, steps: StepChecks, answers: AnswerChecks): DeferredChecks => {
  const { byId, counts, live, plan, strict, time, trace, violate } = run
  const { deferred } = plan
  const tickets = new Map<string, Ticket>()
  const keys = new Map<string, Ticket>()
  // Claimed, and not asked for yet.
  const claimed: Array<Ticket> = []
  let queue: DeferredQueue.DeferredQueue["Service"] | undefined
  let open = 0
  let asks = 0
  // Which claims are being asked for, as far as the queue knows.
  const underway = new Map<string, { readonly ticket: Ticket; readonly owner: string }>()
  const over = (of: { readonly ticket: string; readonly claim: number }, counted: boolean): void => {
    underway.delete(`${of.ticket} ${of.claim}`)
    const last = tickets.get(of.ticket)?.claim
    if (counted && of.claim !== last)
      violate("what is late changes nothing", `claim ${of.claim}, and ${last} is the last`)
  }
  const startedAt = new Map<string, number>()
  const renewing = dice(plan.seed, 501)
  // When the wall clock is set forward or nothing is prolonged, a lease may seem to be over.
  const isLeaseKept = plan.wallSteps.length === 0 && deferred?.renewalFails === 0

  const wall = (): number => Math.floor(Context.get(time.context, Clock.Clock).currentTimeMillisUnsafe())
  const tell = (what: string, ticket: Ticket): void =>
    trace.add(time.now(), what, ticket.holder?.id ?? 0, `ticket ${ticket.ordinal}`)

  const end = (name: string, outcome: DeferredQueue.Settled["_tag"]): void => {
    const ticket = tickets.get(name)
    if (ticket === undefined) return violate("what ends was accepted", name)
    tell(outcome, ticket)
    if (ticket.outcome !== undefined) {
      return violate("a ticket ends in exactly one way", `${ticket.outcome} and ${outcome}`)
    }
    ticket.outcome = outcome
    open--
    if (outcome === "Answered") counts.deferred++
  }

  // The store does each thing in one step, and what is known of it is written down in the same one.
  const atomic = <A, E>(step: Effect.Effect<A, E>, then: (result: A) => void): Effect.Effect<A, E> =>
    Effect.suspend(() => {
      const exit = Effect.runSyncExit(step)
      if (exit._tag === "Success") then(exit.value)
      return exit
    })

  const store: DeferredChecks["store"] = (self) => ({
    ...self,
    insert: (entry, capacity) =>
      atomic(self.insert(entry, capacity), (inserted) => {
        if (deferred === undefined) return
        if (inserted._tag === "Full") {
          if (open < deferred.capacity) violate("nobody is refused while there is room", `${open} wait`)
          return
        }
        if (inserted._tag === "Duplicate") return
        const expiresAt = wall() + deferred.expiresAfter
        const ticket: Ticket = {
          ordinal: tickets.size,
          name: entry.ticket,
          expiresAt,
          holder: undefined,
          tries: 0,
          claim: 0,
          asked: undefined,
          outcome: undefined,
          told: 0,
          delivered: 0
        }
        tickets.set(entry.ticket, ticket)
        tell("accepted", ticket)
        if (++open > deferred.capacity) violate("the queue within its bound", `${open} wait`)
      }),
    claim: (options) =>
      atomic(self.claim(options), (row) => {
        if (deferred === undefined || row === undefined) return
        const ticket = tickets.get(row.ticket)
        if (ticket === undefined) return violate("what is asked was accepted", row.ticket)
        tell("claimed", ticket)
        claimed.push(ticket)
        ticket.claim = row.claim
        const now = time.now()
        if (ticket.outcome !== undefined) violate("nothing is asked after a ticket has ended", ticket.outcome)
        if (wall() >= ticket.expiresAt) violate("nobody is asked for what has expired", `ticket ${ticket.ordinal}`)
        const { owner } = options
        const running = [...underway.values()]
        if (isLeaseKept && running.some((one) => one.ticket === ticket)) {
          violate("a ticket is not asked for twice at a time", `ticket ${ticket.ordinal}`)
        }
        const apart = now - (startedAt.get(owner) ?? -Infinity)
        if (apart < deferred.every - 1) violate("the backlog is no stampede", `${apart} ms apart`)
        startedAt.set(owner, now)
        underway.set(`${row.ticket} ${row.claim}`, { ticket, owner })
        const own = running.filter((one) => one.owner === owner).length + 1
        if (own > deferred.concurrency) violate("the backlog is no stampede", `${own} at a time`)
        const refusals = plan.steps.map((_, step) => steps.refusal(step))
        if (strict && refusals.every((refusal) => refusal !== undefined)) {
          violate("nothing is worked off while everybody refuses", refusals.join(", "))
        }
      }),
    renew: (options) =>
      deferred !== undefined && renewing.chance(deferred.renewalFails)
        ? Effect.fail(new DeferredStore.StoreError({ operation: "renew", cause: "simulated" }))
        : self.renew(options),
    release: (options) => atomic(self.release(options), (done) => over(options, done)),
    settle: (options) =>
      atomic(self.settle(options), (first) => {
        over(options, first)
        const at = claimed.findIndex(({ name }) => name === options.ticket)
        if (at !== -1) claimed.splice(at, 1)
        if (first) end(options.ticket, options.state === "answered" ? "Answered" : "Dead")
      }),
    cancel: (options) =>
      atomic(self.cancel(options), (first) => {
        if (first) end(options.ticket, "Cancelled")
      }),
    expire: (now) =>
      atomic(self.expire(now), (expired) => {
        for (const name of expired) {
          const ticket = tickets.get(name)
          if (ticket !== undefined && now < ticket.expiresAt) violate("nothing expires before its time", name)
          end(name, "Expired")
        }
      })
  })

  const asking: Policy.Policy = (self) =>
    Effect.succeed({
      ...self,
      generate: (request: Marked) => {
        if (request.simulated !== undefined || deferred === undefined) return self.generate(request)
        return Effect.suspend(() => {
          const question = questionOf(request)
          const same = (ticket: Ticket): boolean => {
            const { asked, request: first } = ticket.holder ?? {}
            if (asked === undefined || first === undefined) return true
            return `${asked.kind} ${identityOf(first)}` === `${question.kind} ${identityOf(request)}`
          }
          const at = claimed.findIndex(same)
          const [ticket] = at === -1 ? [] : claimed.splice(at, 1)
          if (ticket === undefined) {
            violate("what is asked was accepted", identityOf(request))
            return Effect.never
          }
          const index = 2_000_000 + asks++
          // Its deadline may be written on it already as the moment at which it ends.
          const deadline = Duration.millis(deferred.deadline)
          const of = Live.begin(run, { ...ordinary, index }, { ...request, deadline })
          of.id = index
          const watched: Marked = { ...request, simulated: index, id: index }
          byId.set(index, of)
          ticket.asked = of
          return Effect.onExit(self.generate(watched), (exit) =>
            Effect.sync(() => {
              of.left = exit._tag === "Failure"
              answers.ended(of, exit)
              // An inner chain that refuses has asked nobody.
              const tried = of.calls.some(({ fault }) => fault !== "Unavailable")
              if (tried && ++ticket.tries > deferred.maxAttempts) {
                violate("a request is tried so many times", `${ticket.tries} of ${deferred.maxAttempts}`)
              }
              live.delete(index)
              byId.delete(index)
            })
          )
        })
      }
    })

  // What a ticket is told to have come to, by whichever way.
  const told = (by: string, settled: DeferredQueue.Settled): Ticket | undefined => {
    const ticket = tickets.get(settled.ticket)
    if (ticket === undefined || ticket.outcome !== settled._tag) {
      violate("everybody is told the same end", `${by} said ${settled._tag} of ${ticket?.outcome ?? "no ticket"}`)
      return undefined
    }
    if (settled._tag === "Answered" && ticket.holder !== undefined) {
      answers.answer(ticket.holder, settled.response.text, [])
    }
    return ticket
  }

  const follow = (of: Live.Live, ticket: Ticket): void => {
    if (queue === undefined) return
    const { await: wait, cancel } = queue
    if (ticket.ordinal % 4 === 0) {
      time.fork(Effect.matchEffect(wait(ticket.name), { onFailure: unknown, onSuccess: (settled) => said(settled) }))
    }
    const { cancelsAfter } = of.asked
    if (cancelsAfter === undefined) return
    time.at(time.now() + cancelsAfter, () => {
      time.fork(
        Effect.match(cancel(ticket.name), {
          onFailure: () => violate("the queue does not fail", "cancel"),
          onSuccess: (first) => {
            if (first ? ticket.outcome !== "Cancelled" : ticket.outcome === undefined) {
              violate("who cancels is told whether it was in time", `${first}, and it is ${ticket.outcome}`)
            }
            // What is told to stop may need the rest of this moment to hear it.
            time.at(time.now() + Live.epsilon, () => {
              // What another process asks is not known here.
              if (first && deferred?.workers === 1 && ticket.asked?.calls.some(({ leaving }) => !leaving) === true) {
                violate("nothing is asked after a ticket has ended", `ticket ${ticket.ordinal}`)
              }
            })
          }
        })
      )
    })
  }
  const unknown = () => Effect.sync(() => violate("the queue does not fail", "await"))
  const said = (settled: DeferredQueue.Settled) => Effect.sync(() => void told("await", settled))

  const given = (of: Live.Live, name: string): void => {
    const ticket = tickets.get(name)
    if (ticket === undefined) return violate("a ticket is one of the queue", name)
    const { keyed, kind, mayWait, wanted } = of.asked
    if (!mayWait) violate("nobody waits who may not", `request ${of.id}`)
    if (wanted !== "text" || of.request.tools.length > 0) violate("only what can be written down waits", wanted)
    const { holder } = ticket
    if (holder !== undefined && holder.identity !== of.identity) {
      violate("a ticket is for one question", `${holder.identity} and ${of.identity}`)
    }
    if (holder !== undefined && !keyed) violate("only the same key gives the same ticket", name)
    if (keyed) {
      const key = `${kind} ${of.identity}`
      const before = keys.get(key)
      if (before !== undefined && before !== ticket) violate("the same key gives the same ticket", key)
      keys.set(key, ticket)
    }
    ticket.holder ??= of
    follow(of, ticket)
  }

  return {
    store,
    asking,
    terms: ({ simulated }) => {
      const { keyed, kind, question } = (simulated === undefined ? undefined : live.get(simulated))?.asked ?? ordinary
      return keyed ? { key: `${kind} ${question}` } : {}
    },
    onSettled: (settled) =>
      Effect.suspend(() => {
        const ticket = told("the handler", settled)
        if (ticket === undefined || deferred === undefined) return Effect.void
        const fails = ticket.told < refusals ? deferred.handlerFails : 0
        if (dice(plan.seed, 500, ticket.ordinal, ticket.told++).chance(fails)) return Effect.fail("busy")
        // A lease that seems to be over is a reason to tell it again.
        if (ticket.delivered++ > 0 && isLeaseKept) violate("a result is delivered once", settled.ticket)
        return Effect.void
      }),
    ended: (of, exit) => {
      if (deferred === undefined || exit._tag === "Success") return
      const error = exit.cause.reasons.find((reason) => reason._tag === "Fail")?.error
      if (error?._tag !== "LlmUnavailable") return
      if (error.notice._tag === "Queued") return given(of, error.notice.ticket)
      if (!of.asked.mayWait || of.committed || isHopeless(error)) return
      const written = of.asked.wanted === "text" && of.request.tools.length === 0
      if (error.notQueued !== (written ? "QueueFull" : "NotDeferrable")) {
        violate("who may wait does", `request ${of.id}: ${error.notQueued}`)
      }
    },
    use: (made) => {
      queue = made
    },
    open: () => open,
    atRest: Effect.gen(function* () {
      if (queue === undefined || deferred === undefined) return
      // Whoever could not take a result is told again when the lease is over.
      for (let tries = 0; tries < refusals && [...tickets.values()].some(({ delivered }) => delivered === 0); tries++) {
        yield* Effect.sleep(deferred.lease + deferred.pollInterval)
      }
      const { size, status } = queue
      const each = Effect.forEach(tickets.values(), (ticket) =>
        Effect.map(status(ticket.name), (status) => {
          if (status._tag === "Queued" || status._tag === "Running") {
            violate("every ticket ends", `ticket ${ticket.ordinal} is ${status._tag}`)
          } else told("status", status)
          // A clock that is set back makes every wait longer.
          if (ticket.delivered === 0 && plan.wallSteps.every(({ by }) => by > 0))
            violate("every result is delivered", `ticket ${ticket.ordinal}`)
        })
      )
      yield* Effect.matchEffect(Effect.zip(size, each), {
        onFailure: () => Effect.sync(() => violate("the queue does not fail", "status")),
        onSuccess: ([{ queued, running }]) =>
          Effect.sync(() => {
            if (queued + running > 0) violate("every ticket ends", `${queued} wait and ${running} are asked`)
          })
      })
    })
  }
}

const isHopeless = ({ attempts }: LlmUnavailable): boolean =>
  attempts.length > 0 &&
  attempts.every((attempt) =>
    attempt._tag === "Skipped"
      ? attempt.reason._tag === "NotCapable"
      : attempt._tag === "Failed" && ProviderError.kind(attempt.error) === "ContextLengthExceeded"
  )

/** Creates the queue of a plan with the checks around it, once for each process that works it off. The first is the one that is filled. */
export const queuesOf = (checks: DeferredChecks, deferred: Deferred) =>
  Effect.gen(function* () {
    const store = checks.store(yield* DeferredStore.makeMemory)
    const make = Effect.provideService(
      DeferredQueue.make({ ...deferred, onSettled: checks.onSettled }),
      DeferredStore.DeferredStore,
      store
    )
    const first = yield* make
    checks.use(first)
    return { first, others: yield* Effect.replicateEffect(make, deferred.workers - 1) }
  })
