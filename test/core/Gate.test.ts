import { assert, describe, it } from "@effect/vitest"
import { Gate, type LlmRequest } from "@llm-resilience/core"
import { Effect, Schema } from "effect"

type Priority = LlmRequest.Priority
interface Waiter extends Gate.Waiter {
  readonly id: number
}

/** A gate that is driven by hand. */
const drive = (limit: number, settings?: Partial<Gate.Settings>) => {
  const rules = { queue: 10, reserved: 0.2, ...settings }
  let state = Gate.initial<Waiter>(limit)
  let ids = 0
  const apply = (event: Gate.Event<Waiter>): Gate.Decision<Waiter> => {
    const [next, decision] = Gate.step(rules, state, event)
    state = next
    return decision
  }
  return {
    arrive: (priority: Priority = "normal", mayWait = true) => {
      const waiter = { id: ids++, priority }
      const decision = apply({ _tag: "Arrive", waiter, mayWait })
      return decision._tag === "Waiting" && decision.shed !== undefined
        ? `Waiting for ${decision.shed.id}`
        : decision._tag
    },
    finish: (priority: Priority = "normal") => opened(apply({ _tag: "Finish", priority })),
    resize: (limit: number) => opened(apply({ _tag: "Resize", limit })),
    load: () => [Gate.inFlight(state), Gate.waitingAt(state)],
    refuses: (priority: Priority, mayWait = true) => Gate.refuses(rules, state, priority, mayWait)
  }
}

const opened = (decision: Gate.Decision<Waiter>): ReadonlyArray<number> => {
  if (decision._tag !== "Opened") throw new Error(`not opened: ${decision._tag}`)
  return decision.passed.map(({ id }) => id)
}

describe("Gate", () => {
  it("K01 lets two pass and two wait, turns the fifth away, and opens first come first served", () => {
    const gate = drive(2, { queue: 2 })

    assert.deepStrictEqual(
      Array.from({ length: 5 }, () => [gate.arrive(), ...gate.load()]),
      [
        ["Passed", 1, 0],
        ["Passed", 2, 0],
        ["Waiting", 2, 1],
        ["Waiting", 2, 2],
        ["Refused", 2, 2]
      ]
    )
    assert.deepStrictEqual(gate.finish(), [2])
    assert.deepStrictEqual(gate.finish(), [3])
    assert.deepStrictEqual([gate.finish(), gate.finish(), gate.load()], [[], [], [0, 0]])
  })

  it("lets critical pass before normal and normal before batch", () => {
    const gate = drive(1)
    for (const priority of ["normal", "batch", "normal", "critical", "batch", "critical"] as const)
      gate.arrive(priority)

    assert.deepStrictEqual(
      [
        gate.finish("normal"),
        gate.finish("critical"),
        gate.finish("critical"),
        gate.finish("normal"),
        gate.finish("batch")
      ],
      [[3], [5], [2], [1], [4]]
    )
  })

  it("makes room for what matters more by shedding the youngest of the least", () => {
    const gate = drive(1, { queue: 3 })
    for (const priority of ["normal", "batch", "batch", "normal"] as const) gate.arrive(priority)

    assert.isTrue(gate.refuses("batch"))
    assert.strictEqual(gate.arrive("batch"), "Refused")
    assert.isFalse(gate.refuses("normal"))
    assert.strictEqual(gate.arrive("normal"), "Waiting for 2")
    assert.strictEqual(gate.arrive("critical"), "Waiting for 1")
    assert.isTrue(gate.refuses("normal"))
    assert.strictEqual(gate.arrive("normal"), "Refused")
    assert.strictEqual(gate.arrive("critical"), "Waiting for 5")
    assert.strictEqual(gate.arrive("critical"), "Waiting for 3")
    assert.isTrue(gate.refuses("critical"))
    assert.strictEqual(gate.arrive("critical"), "Refused")
  })

  it("turns away at once who may not wait", () => {
    const gate = drive(1)
    gate.arrive()

    assert.isTrue(gate.refuses("critical", false))
    assert.strictEqual(gate.arrive("critical", false), "Refused")
    assert.deepStrictEqual(gate.load(), [1, 0])
  })

  it("keeps every permit for who uses one priority only, whichever it is", () => {
    for (const priority of ["critical", "normal", "batch"] as const) {
      const gate = drive(10)

      const answers = Array.from({ length: 11 }, () => gate.arrive(priority))
      assert.deepStrictEqual(answers, [...Array.from({ length: 10 }, () => "Passed"), "Waiting"])
    }
  })

  it("keeps a reserve for each priority that was seen, free of those below it", () => {
    const gate = drive(10)
    gate.arrive("critical")
    gate.arrive("normal")
    gate.finish("critical")
    gate.finish("normal")

    const passed = (priority: Priority) => {
      let count = 0
      while (gate.arrive(priority, false) === "Passed") count++
      return count
    }
    assert.deepStrictEqual([passed("batch"), passed("normal"), passed("critical")], [6, 2, 2])
  })

  it("gives the last permit to anybody", () => {
    const gate = drive(2, { reserved: 0.9 })
    gate.arrive("critical")
    gate.arrive("normal")
    gate.finish("critical")
    gate.finish("normal")

    assert.strictEqual(gate.arrive("batch"), "Passed")
  })

  it("lets more pass when the limit grows, and nobody until enough have ended when it shrinks", () => {
    const gate = drive(1)
    for (let calls = 0; calls < 6; calls++) gate.arrive()

    assert.deepStrictEqual(gate.resize(3), [1, 2])
    assert.deepStrictEqual(gate.resize(1), [])
    assert.deepStrictEqual([gate.finish(), gate.finish(), gate.finish()], [[], [], [3]])
  })

  const priority = Schema.Literals(["critical", "normal", "batch"])
  const Move = Schema.Union([
    Schema.TaggedStruct("Arrive", { priority, mayWait: Schema.Boolean }),
    Schema.TaggedStruct("Arrive", { priority, mayWait: Schema.Literal(true) }),
    Schema.TaggedStruct("Leave", { nth: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 50 })) }),
    Schema.TaggedStruct("Finish", { nth: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 50 })) }),
    Schema.TaggedStruct("Resize", { limit: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 12 })) })
  ])

  it.effect.prop(
    "does what the rules say, whatever happens in whatever order",
    {
      limit: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 12 })),
      queue: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 6 })),
      reserved: Schema.Literals([0, 0.2, 0.5, 0.9]),
      moves: Schema.Array(Move).check(Schema.isMaxLength(60))
    },
    ({ limit, moves, queue, reserved }) =>
      Effect.sync(() => {
        const model = reference(limit, queue, reserved)
        let state = Gate.initial<Waiter>(limit)
        let ids = 0
        for (const move of moves) {
          const event = ((): Gate.Event<Waiter> | undefined => {
            switch (move._tag) {
              case "Arrive":
                return { _tag: "Arrive", waiter: { id: ids++, priority: move.priority }, mayWait: move.mayWait }
              case "Leave": {
                const waiter = model.waiting[move.nth % Math.max(1, model.waiting.length)]
                return waiter && { _tag: "Leave", waiter }
              }
              case "Finish": {
                const priority = model.running[move.nth % Math.max(1, model.running.length)]
                if (priority === undefined) return undefined
                model.running.splice(move.nth % model.running.length, 1)
                return { _tag: "Finish", priority }
              }
              case "Resize":
                return move
            }
          })()
          if (event === undefined) continue
          if (event._tag === "Arrive") {
            assert.strictEqual(
              Gate.refuses({ queue, reserved }, state, event.waiter.priority, event.mayWait),
              model.refuses(event.waiter.priority, event.mayWait)
            )
          }
          const [next, decision] = Gate.step({ queue, reserved }, state, event)
          state = next
          assert.deepStrictEqual(decision, model.after(event))
          assert.deepStrictEqual(
            [Gate.inFlight(state), Gate.waitingAt(state)],
            [model.running.length, model.waiting.length]
          )
        }
      })
  )
})

const ranks: ReadonlyArray<Priority> = ["critical", "normal", "batch"]

/** The rules of a gate in the plainest words: lists in the order of arrival, and bounds summed up anew each time. */
const reference = (initially: number, queue: number, reserved: number) => {
  let limit = initially
  const seen = new Set<Priority>()
  const running: Array<Priority> = []
  const waiting: Array<Waiter> = []
  const rank = (priority: Priority) => ranks.indexOf(priority)

  const boundOf = (at: number) => {
    const above = ranks.slice(0, at).filter((priority) => seen.has(priority)).length
    return Math.max(1, limit - above * Math.floor(limit * reserved))
  }
  const fits = (priority: Priority) =>
    ranks.every((_, at) => at > rank(priority) || running.filter((other) => rank(other) >= at).length < boundOf(at))
  const victim = (priority: Priority) =>
    waiting
      .filter((waiter) => rank(waiter.priority) > rank(priority))
      .toSorted((left, right) => rank(right.priority) - rank(left.priority) || right.id - left.id)[0]
  const refuses = (priority: Priority, mayWait: boolean) =>
    !fits(priority) && (!mayWait || (waiting.length >= queue && victim(priority) === undefined))

  const after = (event: Gate.Event<Waiter>): Gate.Decision<Waiter> => {
    if (event._tag === "Arrive") {
      const { mayWait, waiter } = event
      seen.add(waiter.priority)
      if (fits(waiter.priority)) {
        running.push(waiter.priority)
        return { _tag: "Passed" }
      }
      if (refuses(waiter.priority, mayWait)) return { _tag: "Refused" }
      const shed = waiting.length < queue ? undefined : victim(waiter.priority)
      if (shed !== undefined) waiting.splice(waiting.indexOf(shed), 1)
      waiting.push(waiter)
      return { _tag: "Waiting", shed }
    }
    if (event._tag === "Leave") waiting.splice(waiting.indexOf(event.waiter), 1)
    if (event._tag === "Resize") limit = event.limit
    const passed: Array<Waiter> = []
    for (;;) {
      const next = waiting
        .filter(({ priority }) => fits(priority))
        .toSorted((left, right) => rank(left.priority) - rank(right.priority) || left.id - right.id)[0]
      if (next === undefined) return { _tag: "Opened", passed }
      waiting.splice(waiting.indexOf(next), 1)
      running.push(next.priority)
      passed.push(next)
    }
  }
  return { running, waiting, refuses, after }
}
