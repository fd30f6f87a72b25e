import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type { SkipReason } from "../Attempt.ts"
import * as Gate from "../Gate.ts"
import type { LlmRequest, Priority } from "../LlmRequest.ts"
import * as LlmUnavailable from "../LlmUnavailable.ts"
import * as Policy from "../Policy.ts"
import type { Failure, Load, Provider } from "../Provider.ts"
import type * as ResilienceEvent from "../ResilienceEvent.ts"
import { monotonic } from "./monotonic.ts"

/**
 * A call at the gate, and the proof that it may pass. `sentAt` is the moment when it did, `inFlight` how many were under way
 * then, itself included; `committed` says that the first content of a stream is there.
 */
export interface Ticket {
  readonly priority: Priority
  readonly request: number
  readonly provider: string
  place: "Outside" | "Waiting" | "Inside"
  wake: (() => void) | undefined
  sentAt: number
  inFlight: number
  committed: boolean
}

/** Keeps the state of one gate, lets its waiters wait and wakes them. */
export interface Gatekeeper {
  readonly guard: (self: Provider) => Provider
  readonly load: () => Load
  readonly resize: (limit: number) => void
}

/** What {@link make} is told: the rules of the gate, and who wants to know how calls went. */
export interface Rules extends Gate.Settings {
  readonly limit: number
  readonly maxWait: number
  readonly hub: ResilienceEvent.Hub
  /** The first content of a stream is there. */
  readonly onContent?: ((ticket: Ticket, now: number) => void) | undefined
  readonly onEnd?: ((ticket: Ticket, outcome: Policy.Outcome, now: number) => void) | undefined
}

/** Checks what the user may choose, and fills in the rest. A line is as long as there are permits unless said otherwise. */
export const rulesOf = (
  name: string,
  options: {
    readonly queue?: number | undefined
    readonly maxWait?: Duration.Input | undefined
    readonly reserved?: number | undefined
  },
  permits: number
): Pick<Rules, "queue" | "maxWait" | "reserved"> => {
  const { queue = permits, reserved = 0.2 } = options
  const maxWait = Duration.toMillis(options.maxWait ?? "1 second")
  if (!Number.isInteger(queue) || queue < 0)
    throw new RangeError(`${name}: queue must be an integer >= 0, got ${queue}`)
  if (!(reserved >= 0 && reserved < 1)) throw new RangeError(`${name}: reserved must be in [0, 1), got ${reserved}`)
  if (!(maxWait >= 0)) throw new RangeError(`${name}: maxWait must not be negative, got ${maxWait} ms`)
  return { queue, reserved, maxWait }
}

export const make = (rules: Rules): Gatekeeper => {
  const { hub, maxWait, onContent, onEnd } = rules
  let state = Gate.initial<Ticket>(rules.limit)

  const apply = (event: Gate.Event<Ticket>): Gate.Decision<Ticket> => {
    const [next, decision] = Gate.step(rules, state, event)
    state = next
    if (decision._tag === "Opened") for (const ticket of decision.passed) letIn(ticket)
    return decision
  }

  const letIn = (ticket: Ticket): void => {
    enter(ticket)
    ticket.wake?.()
  }

  const enter = (ticket: Ticket): void => {
    ticket.place = "Inside"
    ticket.inFlight = Gate.inFlight(state)
  }

  const admit = (self: Provider, request: LlmRequest, now: number): Effect.Effect<Ticket, Failure> => {
    const patience = Math.min(maxWait, request.expiresAt - now, request.commitBy - now)
    const ticket: Ticket = {
      priority: request.priority,
      request: request.id,
      provider: self.id,
      place: "Outside",
      wake: undefined,
      sentAt: now,
      inFlight: 0,
      committed: false
    }
    const decision = apply({ _tag: "Arrive", waiter: ticket, mayWait: patience > 0 })
    if (decision._tag === "Passed") {
      enter(ticket)
      return Effect.succeed(ticket)
    }
    if (decision._tag !== "Waiting") return refuse(self)
    ticket.place = "Waiting"
    if (decision.shed !== undefined) shed(decision.shed)
    return wait(self, ticket, patience, now)
  }

  const shed = (ticket: Ticket): void => {
    const { priority, provider, request } = ticket
    ticket.place = "Outside"
    if (hub.active()) hub.publish({ _tag: "Shed", request, provider, priority })
    ticket.wake?.()
  }

  const wait = (self: Provider, ticket: Ticket, patience: number, since: number): Effect.Effect<Ticket, Failure> =>
    Clock.clockWith((clock) =>
      Effect.flatMap(
        Effect.onExit(Effect.interruptible(woken(ticket, patience)), (exit) => {
          if (Exit.isFailure(exit)) leave(ticket)
          return Effect.void
        }),
        () => {
          if (ticket.place !== "Inside") return refuse(self)
          ticket.sentAt = monotonic(clock)
          if (hub.active()) {
            const { provider, request } = ticket
            const wait = Duration.millis(ticket.sentAt - since)
            hub.publish({ _tag: "Throttled", request, provider, limit: "concurrency", wait })
          }
          return Effect.succeed(ticket)
        }
      )
    )

  // Ends when the gate lets the ticket in or sheds it, or when its patience does: `place` says which.
  const woken = (ticket: Ticket, patience: number): Effect.Effect<void> =>
    Effect.withFiber((fiber) =>
      Effect.callback<void>((resume) => {
        // The fiber may have yielded since it came into the line.
        if (ticket.place !== "Waiting") return resume(Effect.void)
        let timer: Fiber.Fiber<void> | undefined
        ticket.wake = () => {
          timer?.interruptUnsafe()
          // On the stack of the one who left, a long line of short calls would wake itself too deep.
          resume(Effect.yieldNow)
        }
        if (patience < Infinity) {
          timer = Effect.runForkWith(fiber.context)(Effect.sleep(Duration.millis(patience)))
          timer.addObserver((exit) => {
            if (!Exit.isSuccess(exit) || ticket.place !== "Waiting") return
            leave(ticket)
            resume(Effect.void)
          })
        }
        return Effect.sync(() => timer?.interruptUnsafe())
      })
    )

  // Gives back exactly what the ticket holds: its place in the line, or the permit that it was given at the moment it left.
  const leave = (ticket: Ticket): void => {
    const { place } = ticket
    ticket.place = "Outside"
    if (place === "Waiting") apply({ _tag: "Leave", waiter: ticket })
    if (place === "Inside") apply({ _tag: "Finish", priority: ticket.priority })
  }

  const load = (): Load => ({ inFlight: Gate.inFlight(state), waiting: Gate.waitingAt(state), limit: state.limit })

  return {
    load,
    resize: (limit) => {
      if (limit !== state.limit) apply({ _tag: "Resize", limit })
    },
    guard: (self) => ({
      ...self,
      ...Policy.observe<Ticket>({
        admit: (request, now) => admit(self, request, now),
        commit: (ticket, _, now) => {
          ticket.committed = true
          onContent?.(ticket, now)
          return ticket
        },
        settle: (ticket, outcome, now) => {
          // First: what this call tells may close the gate to the one who is next.
          onEnd?.(ticket, outcome, now)
          leave(ticket)
          return Effect.void
        }
      })(self),
      availability: (request, now) =>
        Gate.refuses(rules, state, request.priority, maxWait > 0) ? saturated : self.availability(request, now),
      status: Effect.map(self.status, (inner) =>
        inner.map((status) => (status.provider === self.id ? { ...status, load: load() } : status))
      )
    })
  }
}

// Nobody knows when the next answer is complete.
const saturated: SkipReason = { _tag: "Saturated" }

const refuse = (self: Provider): Effect.Effect<never, Failure> =>
  Effect.suspend(() =>
    Effect.fail(LlmUnavailable.make([{ _tag: "Skipped", provider: self.id, model: self.model, reason: saturated }]))
  )
