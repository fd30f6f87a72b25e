/**
 * The gate in front of a provider as a pure machine: `(state, event) => [state, decision]`.
 *
 * `Bulkhead` and `AdaptiveConcurrency` keep this state, wait and wake; every rule about who passes, who waits and who is turned away is here,
 * so that a property test can hold it against a reference.
 *
 * **Rules**
 *
 * - At most `limit` calls pass at a time. A permit is never idle while somebody waits who may have it.
 * - Each priority has a line of its own, first come first served; `critical` goes before `normal`, `normal` before `batch`.
 * - Once a priority was seen, those below it leave it a reserve: `reserved` of the permits, rounded down, are kept free of `batch` when
 *   `normal` was seen, of both when `critical` was, and twice as many of `batch` when both were. Whoever uses one priority only keeps every
 *   permit. No reserve takes the last permit.
 * - At most `queue` wait. When there is no room, the youngest waiter of the lowest priority below that of the newcomer makes it; without
 *   one, the newcomer is turned away.
 *
 * @since 0.1.0
 */
import type { Priority } from "./LlmRequest.ts"

/**
 * The rules of one gate.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settings {
  readonly queue: number
  readonly reserved: number
}

/**
 * Who wants to pass. The machine compares waiters by identity.
 *
 * @category models
 * @since 0.1.0
 */
export interface Waiter {
  readonly priority: Priority
}

/**
 * The state of a gate: how many calls of each priority have passed and not ended, and who waits, oldest first.
 *
 * @category models
 * @since 0.1.0
 */
export interface State<W extends Waiter = Waiter> {
  readonly limit: number
  readonly running: { readonly [priority in Priority]: number }
  readonly lines: { readonly [priority in Priority]: ReadonlyArray<W> }
  /** The priorities above `batch` that were ever asked for. */
  readonly seen: { readonly critical: boolean; readonly normal: boolean }
}

/**
 * What can happen at a gate.
 *
 * **Details**
 *
 * - `Arrive`: somebody wants to pass, and waits if it has to and `mayWait`.
 * - `Leave`: a waiter gives up. Of somebody who does not wait any more, nothing is known here.
 * - `Finish`: a call that passed has ended.
 * - `Resize`: from now on `limit` calls pass. Those under way are let be.
 *
 * @category models
 * @since 0.1.0
 */
export type Event<W extends Waiter = Waiter> =
  | { readonly _tag: "Arrive"; readonly waiter: W; readonly mayWait: boolean }
  | { readonly _tag: "Leave"; readonly waiter: W }
  | { readonly _tag: "Finish"; readonly priority: Priority }
  | { readonly _tag: "Resize"; readonly limit: number }

/**
 * The machine's answer to an event. `Waiting` names who had to make room, `Opened` those who may pass now, in this order.
 *
 * @category models
 * @since 0.1.0
 */
export type Decision<W extends Waiter = Waiter> =
  | { readonly _tag: "Passed" }
  | { readonly _tag: "Waiting"; readonly shed: W | undefined }
  | { readonly _tag: "Refused" }
  | { readonly _tag: "Opened"; readonly passed: ReadonlyArray<W> }

const passed = { _tag: "Passed" } as const
const waiting = { _tag: "Waiting", shed: undefined } as const
const refused = { _tag: "Refused" } as const
const nobody = { _tag: "Opened", passed: [] } as const

/**
 * Returns the state of a new gate, through which nobody has gone.
 *
 * @category constructors
 * @since 0.1.0
 */
export const initial = <W extends Waiter>(limit: number): State<W> => ({
  limit,
  running: { critical: 0, normal: 0, batch: 0 },
  lines: { critical: [], normal: [], batch: [] },
  seen: { critical: false, normal: false }
})

/**
 * Applies one event.
 *
 * @category combinators
 * @since 0.1.0
 */
export const step = <W extends Waiter>(
  settings: Settings,
  state: State<W>,
  event: Event<W>
): readonly [State<W>, Decision<W>] => {
  switch (event._tag) {
    case "Arrive": {
      const { priority } = event.waiter
      const known = priority === "batch" || state.seen[priority]
      const seeing = known ? state : { ...state, seen: { ...state.seen, [priority]: true } }
      return mayPass(settings, seeing, priority)
        ? [withRunning(seeing, priority, 1), passed]
        : arrive(settings, seeing, event)
    }
    case "Leave": {
      const line = state.lines[event.waiter.priority]
      const rest = line.filter((waiter) => waiter !== event.waiter)
      return [rest.length === line.length ? state : withLine(state, event.waiter.priority, rest), nobody]
    }
    case "Finish":
      return open(settings, withRunning(state, event.priority, -1))
    case "Resize":
      return open(settings, { ...state, limit: event.limit })
  }
}

/**
 * Checks whether somebody of this priority would be turned away at once.
 *
 * @category guards
 * @since 0.1.0
 */
export const refuses = (settings: Settings, state: State, priority: Priority, mayWait: boolean): boolean =>
  !mayPass(settings, state, priority) && !(mayWait && hasRoom(settings, state, priority))

// Without a line there is nobody in it who could make room.
const hasRoom = (settings: Settings, state: State, priority: Priority): boolean =>
  waitingAt(state) < settings.queue || weakest(state, priority) !== undefined

/**
 * Returns how many calls have passed and not ended.
 *
 * @category accessors
 * @since 0.1.0
 */
export const inFlight = (state: State): number => state.running.critical + state.running.normal + state.running.batch

/**
 * Returns how many wait.
 *
 * @category accessors
 * @since 0.1.0
 */
export const waitingAt = (state: State): number =>
  state.lines.critical.length + state.lines.normal.length + state.lines.batch.length

// A priority that may not pass holds up all below it: their bounds include its own. So whoever waits waits for a permit, and nobody who
// arrives can overtake somebody of the same or a higher priority.
const mayPass = (settings: Settings, state: State, priority: Priority): boolean => {
  const { limit, running, seen } = state
  if (running.critical + running.normal + running.batch >= limit) return false
  if (priority === "critical") return true
  const reserve = Math.floor(limit * settings.reserved)
  const free = seen.critical ? reserve : 0
  if (running.normal + running.batch >= Math.max(1, limit - free)) return false
  return priority === "normal" || running.batch < Math.max(1, limit - free - (seen.normal ? reserve : 0))
}

// Written out: it runs twice in every call.
const withRunning = <W extends Waiter>(state: State<W>, priority: Priority, by: 1 | -1): State<W> => {
  const { limit, lines, seen } = state
  const { batch, critical, normal } = state.running
  const running = {
    critical: priority === "critical" ? critical + by : critical,
    normal: priority === "normal" ? normal + by : normal,
    batch: priority === "batch" ? batch + by : batch
  }
  return { limit, running, lines, seen }
}

const arrive = <W extends Waiter>(
  settings: Settings,
  state: State<W>,
  { mayWait, waiter }: Extract<Event<W>, { _tag: "Arrive" }>
): readonly [State<W>, Decision<W>] => {
  const { priority } = waiter
  if (!mayWait) return [state, refused]
  if (waitingAt(state) < settings.queue) return [withLine(state, priority, [...state.lines[priority], waiter]), waiting]
  const shed = weakest(state, priority)
  if (shed === undefined) return [state, refused]
  const room = withLine(state, shed.priority, state.lines[shed.priority].slice(0, -1))
  return [withLine(room, priority, [...state.lines[priority], waiter]), { _tag: "Waiting", shed }]
}

const withLine = <W extends Waiter>(state: State<W>, priority: Priority, line: ReadonlyArray<W>): State<W> => ({
  ...state,
  lines: { ...state.lines, [priority]: line }
})

// Who makes room for somebody of this priority: the youngest of the lowest one below it.
const weakest = <W extends Waiter>({ lines }: State<W>, priority: Priority): W | undefined => {
  if (priority === "batch") return undefined
  return lines.batch.at(-1) ?? (priority === "critical" ? lines.normal.at(-1) : undefined)
}

const byRank = ["critical", "normal", "batch"] as const

const open = <W extends Waiter>(settings: Settings, state: State<W>): readonly [State<W>, Decision<W>] => {
  if (waitingAt(state) === 0) return [state, nobody]
  let next = state
  const passed: Array<W> = []
  for (const priority of byRank) {
    for (const waiter of state.lines[priority]) {
      if (!mayPass(settings, next, priority)) break
      next = withRunning(withLine(next, priority, next.lines[priority].slice(1)), priority, 1)
      passed.push(waiter)
    }
  }
  return [next, passed.length === 0 ? nobody : { _tag: "Opened", passed }]
}
