import * as DeferredQueue from "@llm-resilience/core/DeferredQueue"
import * as DeferredStore from "@llm-resilience/core/DeferredStore"
import type { LlmUnavailable } from "@llm-resilience/core/LlmUnavailable"
import type * as Policy from "@llm-resilience/core/Policy"
import type { Failure } from "@llm-resilience/core/Provider"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Cause from "effect/Cause"
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
import * as Remote from "./remote.ts"
import type { StepChecks } from "./stepChecks.ts"
import type { Marked } from "./world.ts"

/** What is accepted with a ticket, and what becomes of it. */
export interface DeferredChecks {
  readonly of: (place: Remote.Place, steps: StepChecks) => Desk
  readonly terms: (request: Marked) => DeferredQueue.Terms
  readonly onSettled: (settled: DeferredQueue.Settled) => Effect.Effect<void, string>
  readonly ended: (live: Live.Live, exit: Exit.Exit<unknown, Failure>) => void
  /** An operator gives what died a new life. */
  readonly requeue: () => void
  /** The store does what it is asked from now on. */
  readonly heal: () => void
  /** How many tickets have not ended. */
  readonly open: () => number
  readonly atRest: Effect.Effect<void>
}

/** The queue as one process has it. */
export interface Desk {
  /** The store, where everything that the queue decides passes. */
  readonly store: DeferredStore.DeferredStore["Service"]
  /** Between the queue and the chain: what is asked to work the queue off becomes a request that is watched like all others. */
  readonly asking: Policy.Policy
  readonly open: (queue: DeferredQueue.DeferredQueue["Service"]) => void
  /** Nobody comes here any more. */
  readonly close: () => void
}

interface Ticket {
  readonly ordinal: number
  readonly name: string
  expiresAt: number
  /** How often somebody gave it a life. */
  lives: number
  /** How often it was claimed in this life, but for the claims that were given back untried. */
  attempts: number
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

export const make = (run: Live.Run, answers: AnswerChecks): DeferredChecks => {
  const { byId, counts, live, plan, strict, time, trace, violate } = run
  const { deferred, replicas } = plan
  const tickets = new Map<string, Ticket>()
  const keys = new Map<string, Ticket>()
  // The processes that are up, with their queues.
  const desks = new Map<Remote.Place, DeferredQueue.DeferredQueue["Service"]>()
  const memory = Effect.runSync(DeferredStore.makeMemory)
  let open = 0
  let asks = 0
  // Which claims are being asked for, as far as the queue knows.
  const underway = new Map<string, { readonly ticket: Ticket; readonly owner: string }>()
  // Until when whoever claimed them is believed to be alive.
  const leases = new Map<Ticket, { readonly owner: string; readonly until: number }>()
  const over = (of: { readonly ticket: string; readonly claim: number }, counted: boolean): void => {
    underway.delete(`${of.ticket} ${of.claim}`)
    const last = tickets.get(of.ticket)?.claim
    if (counted && of.claim !== last)
      violate("what is late changes nothing", `claim ${of.claim}, and ${last} is the last`)
  }
  const startedAt = new Map<string, number>()
  const renewing = dice(plan.seed, 501)
  const ways = dice(plan.seed, 502)
  const fates = dice(plan.seed, 503)
  let healed = false
  const fateOf = (): Remote.Fate =>
    !healed && fates.chance(replicas?.trouble ?? 0) ? fates.pick<Remote.Fate>(["refused", "broken"]) : "well"
  // When the wall clock is set forward, nothing is prolonged or somebody dies, a lease may seem to be over.
  const isWell = (replicas?.trouble ?? 0) === 0
  const isLeaseKept =
    plan.wallSteps.length === 0 && deferred?.renewalFails === 0 && isWell && (replicas?.stops.length ?? 0) === 0

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
    leases.delete(ticket)
    open--
    if (outcome === "Answered") counts.deferred++
  }

  const accepted = (entry: DeferredStore.Entry, expiresAt: number): void => {
    const ticket: Ticket = {
      ordinal: tickets.size,
      name: entry.ticket,
      expiresAt,
      lives: 1,
      attempts: 0,
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
  }

  const checkClaim = (
    { leaseUntil, owner }: { readonly owner: string; readonly leaseUntil: number },
    row: DeferredStore.Row,
    ticket: Ticket,
    sentAt: number
  ): void => {
    tell("claimed", ticket)
    ticket.claim = row.claim
    if (row.attempts !== ++ticket.attempts) {
      violate("attempts are counted, and anew in a new life", `${row.attempts} instead of ${ticket.attempts}`)
    }
    if (ticket.outcome !== undefined) violate("nothing is asked after a ticket has ended", ticket.outcome)
    if (sentAt >= ticket.expiresAt) violate("nobody is asked for what has expired", `ticket ${ticket.ordinal}`)
    const lease = leases.get(ticket)
    if (lease !== undefined && sentAt < lease.until) violate("a lease that holds is kept", `ticket ${ticket.ordinal}`)
    leases.set(ticket, { owner, until: leaseUntil })
  }

  const checkPace = (owner: string, row: DeferredStore.Row, ticket: Ticket): void => {
    if (deferred === undefined) return
    const now = time.now()
    const running = [...underway.values()]
    if (isLeaseKept && running.some((one) => one.ticket === ticket)) {
      violate("a ticket is not asked for twice at a time", `ticket ${ticket.ordinal}`)
    }
    const apart = now - (startedAt.get(owner) ?? -Infinity)
    if (apart < deferred.every - 1) violate("the backlog is no stampede", `${apart} ms apart`)
    startedAt.set(owner, now)
    underway.set(`${row.ticket} ${row.claim}`, { ticket, owner })
    const own = running.filter((one) => one.owner === owner).length + 1
    // What could not be written down is done, for whoever asked.
    if (own > deferred.concurrency && (replicas?.trouble ?? 0) === 0)
      violate("the backlog is no stampede", `${own} at a time`)
  }

  const of: DeferredChecks["of"] = (place, steps) => {
    const self = memory
    const remote = Remote.make(time, place, ways, replicas?.travel ?? 0)
    // Claimed, and not asked for yet.
    const claimed: Array<Ticket> = []
    // The store does each thing in one step, and what is known of it is written down in the same one.
    const atomic = <A>(
      operation: string,
      step: Effect.Effect<A, DeferredStore.StoreError>,
      then: (result: A, isTold: boolean) => void
    ): Effect.Effect<A, DeferredStore.StoreError> =>
      Effect.suspend(() => {
        const fate = fateOf()
        const command = Effect.suspend(() => {
          const exit = Effect.runSyncExit(step)
          if (exit._tag === "Success") then(exit.value, fate === "well")
          return exit
        })
        return remote.carry(command, fate, () => new DeferredStore.StoreError({ operation, cause: "simulated" }))
      })
    const store: DeferredStore.DeferredStore["Service"] = {
      ...self,
      insert: (entry, capacity) =>
        Effect.suspend(() => {
          const sentAt = wall()
          return atomic("insert", self.insert(entry, capacity), (inserted) => {
            if (deferred === undefined || inserted._tag === "Duplicate") return
            if (inserted._tag === "Full") {
              if (open < deferred.capacity) violate("nobody is refused while there is room", `${open} wait`)
              return
            }
            accepted(entry, sentAt + deferred.expiresAfter)
            if (++open > deferred.capacity) violate("the queue within its bound", `${open} wait`)
          })
        }),
      claim: (options) =>
        Effect.suspend(() => {
          const sentAt = wall()
          const refusals = plan.steps.map((_, step) => steps.refusal(step))
          const claiming = atomic("claim", self.claim(options), (row, isTold) => {
            if (row === undefined) return
            const ticket = tickets.get(row.ticket)
            if (ticket === undefined) return violate("what is asked was accepted", row.ticket)
            checkClaim(options, row, ticket, sentAt)
            // Whoever is not told of it asks nobody, and the lease lapses.
            if (!isTold) return
            checkPace(options.owner, row, ticket)
            if (strict && refusals.every((refusal) => refusal !== undefined)) {
              violate("nothing is worked off while everybody refuses", refusals.join(", "))
            }
          })
          return Effect.map(claiming, (row) => {
            const ticket = row === undefined ? undefined : tickets.get(row.ticket)
            if (ticket !== undefined) claimed.push(ticket)
            return row
          })
        }),
      renew: (options) =>
        deferred !== undefined && renewing.chance(deferred.renewalFails)
          ? Effect.fail(new DeferredStore.StoreError({ operation: "renew", cause: "simulated" }))
          : atomic("renew", self.renew(options), () => {
              for (const name of options.tickets) {
                const ticket = tickets.get(name)
                if (ticket === undefined || leases.get(ticket)?.owner !== options.owner) continue
                leases.set(ticket, { owner: options.owner, until: options.leaseUntil })
              }
            }),
      release: (options) =>
        atomic("release", self.release(options), (done) => {
          over(options, done)
          const ticket = tickets.get(options.ticket)
          if (!done || ticket === undefined) return
          leases.delete(ticket)
          if (options.refund) ticket.attempts--
        }),
      settle: (options) =>
        Effect.suspend(() => {
          const at = claimed.findIndex(({ name }) => name === options.ticket)
          if (at !== -1) claimed.splice(at, 1)
          return atomic("settle", self.settle(options), (first) => {
            over(options, first)
            if (first) end(options.ticket, options.state === "answered" ? "Answered" : "Dead")
          })
        }),
      cancel: (options) =>
        atomic("cancel", self.cancel(options), (first) => {
          if (first) end(options.ticket, "Cancelled")
        }),
      expire: (now) =>
        atomic("expire", self.expire(now), (expired) => {
          for (const name of expired) {
            const ticket = tickets.get(name)
            if (ticket !== undefined && now < ticket.expiresAt) violate("nothing expires before its time", name)
            end(name, "Expired")
          }
        }),
      claimDelivery: (options) => atomic("claimDelivery", self.claimDelivery(options), () => {}),
      endDelivery: (options) => atomic("endDelivery", self.endDelivery(options), () => {}),
      requeue: (options) =>
        Effect.suspend(() => {
          const sentAt = wall()
          return atomic("requeue", self.requeue(options), (done) => {
            const ticket = tickets.get(options.ticket)
            const wasDead = ticket?.outcome === "Dead"
            if (done !== wasDead) violate("what is dead can be queued again", `${done}, and it is ${ticket?.outcome}`)
            if (!done || ticket === undefined || deferred === undefined) return
            tell("requeued", ticket)
            counts.requeued++
            open++
            ticket.lives++
            ticket.attempts = 0
            ticket.tries = 0
            ticket.delivered = 0
            ticket.outcome = undefined
            ticket.expiresAt = sentAt + deferred.expiresAfter
          })
        })
    }

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
            const { lives } = ticket
            return Effect.onExit(self.generate(watched), (exit) =>
              Effect.sync(() => {
                of.left = exit._tag === "Failure"
                answers.ended(of, exit)
                // An inner chain that refuses has asked nobody, and who is shut down has not tried.
                const isTried = of.calls.some(({ fault }) => fault !== "Unavailable") && !isInterrupted(exit)
                if (isTried && ticket.lives === lives && ++ticket.tries > deferred.maxAttempts) {
                  violate("a request is tried so many times", `${ticket.tries} of ${deferred.maxAttempts}`)
                }
                live.delete(index)
                byId.delete(index)
              })
            )
          })
        }
      })

    return { store, asking, open: (queue) => void desks.set(place, queue), close: () => void desks.delete(place) }
  }

  // What a ticket is told to have come to, by whichever way.
  const told = (by: string, settled: DeferredQueue.Settled): Ticket | undefined => {
    const ticket = tickets.get(settled.ticket)
    // Whoever asked before somebody gave it a new life may be told of the old one.
    if (ticket === undefined || (ticket.outcome !== settled._tag && !isOfOldLife(ticket, settled))) {
      violate("everybody is told the same end", `${by} said ${settled._tag} of ${ticket?.outcome ?? "no ticket"}`)
      return undefined
    }
    if (settled._tag === "Answered" && ticket.holder !== undefined) {
      answers.answer(ticket.holder, settled.response.text, [])
    }
    return ticket
  }

  const isOfOldLife = (ticket: Ticket, settled: DeferredQueue.Settled): boolean =>
    ticket.lives > 1 && settled._tag === "Dead" && ticket.outcome !== "Dead"

  // Whoever comes with a ticket comes to any process that is up.
  const someDesk = (ticket: number) => [...desks][ticket % Math.max(1, desks.size)]

  const listen = (ticket: Ticket): void => {
    const [place, queue] = someDesk(ticket.ordinal) ?? []
    if (queue === undefined) return
    place?.fork(
      Effect.matchEffect(queue.await(ticket.name), { onFailure: unknown, onSuccess: (settled) => said(settled) })
    )
  }

  const follow = (of: Live.Live, ticket: Ticket): void => {
    if (ticket.ordinal % 4 === 0) listen(ticket)
    const { cancelsAfter } = of.asked
    if (cancelsAfter === undefined) return
    time.at(time.now() + cancelsAfter, () => {
      const [place, { cancel } = {}] = someDesk(ticket.ordinal) ?? []
      if (cancel === undefined) return
      place?.fork(
        Effect.match(cancel(ticket.name), {
          onFailure: () => failed("cancel"),
          onSuccess: (first) => {
            const isLate = ticket.outcome !== undefined || ticket.lives > 1
            if (first ? ticket.outcome !== "Cancelled" : !isLate) {
              violate("who cancels is told whether it was in time", `${first}, and it is ${ticket.outcome}`)
            }
            // What is told to stop may need the rest of this moment to hear it.
            time.at(time.now() + Live.epsilon, () => {
              // What another process asks is not known here.
              const isAlone = deferred?.workers === 1 && replicas === undefined
              if (first && isAlone && ticket.asked?.calls.some(({ leaving }) => !leaving) === true) {
                violate("nothing is asked after a ticket has ended", `ticket ${ticket.ordinal}`)
              }
            })
          }
        })
      )
    })
  }
  const unknown = () => Effect.sync(() => failed("await"))
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

  const requeueAll = (queue: DeferredQueue.DeferredQueue["Service"]) =>
    Effect.gen(function* () {
      for (const letter of yield* queue.deadLetters()) {
        const ticket = tickets.get(letter.ticket)
        if (ticket === undefined) violate("a ticket is one of the queue", letter.ticket)
        // Another operator, or another letter of the list, may take time.
        else if (yield* requeued(queue, ticket)) listen(ticket)
      }
      const ended = [...tickets.values()].find(({ outcome }) => outcome !== undefined && outcome !== "Dead")
      if (ended !== undefined) yield* requeued(queue, ended)
    })
  const requeued = (queue: DeferredQueue.DeferredQueue["Service"], { name }: Ticket) =>
    Effect.catch(Effect.as(queue.requeue(name), true), (error) =>
      error._tag === "TicketUnknown" ? Effect.succeed(false) : Effect.fail(error)
    )

  const failed = (operation: string): void => {
    if (isWell) violate("the queue does not fail", operation)
  }

  return {
    of,
    heal: () => {
      healed = true
    },
    terms: ({ simulated }) => {
      const { keyed, kind, question } = (simulated === undefined ? undefined : live.get(simulated))?.asked ?? ordinary
      return keyed ? { key: `${kind} ${question}` } : {}
    },
    onSettled: (settled) =>
      Effect.suspend(() => {
        const ticket = told("the handler", settled)
        if (ticket === undefined || deferred === undefined || isOfOldLife(ticket, settled)) return Effect.void
        const fails = ticket.told < refusals ? deferred.handlerFails : 0
        if (dice(plan.seed, 500, ticket.ordinal, ticket.told++).chance(fails)) return Effect.fail("busy")
        // A lease that seems to be over is a reason to tell it again.
        if (ticket.delivered++ > 0 && isLeaseKept && ticket.lives === 1)
          violate("a result is delivered once", settled.ticket)
        return Effect.void
      }),
    ended: (of, exit) => {
      if (deferred === undefined || exit._tag === "Success") return
      const error = exit.cause.reasons.find((reason) => reason._tag === "Fail")?.error
      if (error?._tag !== "LlmUnavailable") return
      if (error.notice._tag === "Queued") return given(of, error.notice.ticket)
      if (!of.asked.mayWait || of.committed || isHopeless(error)) return
      const written = of.asked.wanted === "text" && of.request.tools.length === 0
      if (written && error.notQueued === "StoreError") return failed("insert")
      if (error.notQueued !== (written ? "QueueFull" : "NotDeferrable")) {
        violate("who may wait does", `request ${of.id}: ${error.notQueued}`)
      }
    },
    requeue: () => {
      const [place, queue] = someDesk(0) ?? []
      if (queue === undefined) return
      place?.fork(Effect.catch(requeueAll(queue), () => Effect.sync(() => failed("requeue"))))
    },
    open: () => open,
    atRest: Effect.gen(function* () {
      const [, queue] = someDesk(0) ?? []
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

const isInterrupted = (exit: Exit.Exit<unknown, unknown>): boolean =>
  exit._tag === "Failure" && Cause.hasInterruptsOnly(exit.cause)

const isHopeless = ({ attempts }: LlmUnavailable): boolean =>
  attempts.length > 0 &&
  attempts.every((attempt) =>
    attempt._tag === "Skipped"
      ? attempt.reason._tag === "NotCapable"
      : attempt._tag === "Failed" && ProviderError.kind(attempt.error) === "ContextLengthExceeded"
  )

/** Creates the queue of a plan in one process, once for each worker. The first is the one that is filled. */
export const queuesOf = (desk: Desk, { onSettled }: DeferredChecks, deferred: Deferred) =>
  Effect.gen(function* () {
    const make = Effect.provideService(
      DeferredQueue.make({ ...deferred, onSettled }),
      DeferredStore.DeferredStore,
      desk.store
    )
    const first = yield* make
    desk.open(first)
    return { first, others: yield* Effect.replicateEffect(make, deferred.workers - 1) }
  })
