// Turns the examples of the documentation into test modules, so that `npm run check` type-checks and `npm test` runs them.
//
// An example is a fence ```ts import.meta.vitest in the JSDoc of a package or in a Markdown file. Where an expression is followed
// by `// => value`, at the end of its line or on the next one, the module asserts that both are deeply equal. A value that needs
// more than one line goes on in the comment lines below. Everything else runs as it stands.
//
// Each example becomes a module of its own, and line N of the module is line N of the document: what the compiler or a failing
// test says about one can be looked up in the other.
import * as Fs from "node:fs"
import * as Path from "node:path"
import { parseSync, Visitor } from "vite"

const root = Path.resolve(import.meta.dirname, "../..")
const target = Path.join(root, "test/examples")
const documents = ["packages/*/src/**/*.ts", "README.md", "packages/*/README.md", "docs/**/*.md"]
const fence = /^([^\n]*?)```ts import\.meta\.vitest\n(.*?)^\1```$/gms

const extract = (): void => {
  Fs.rmSync(target, { recursive: true, force: true })
  for (const document of Fs.globSync(documents, { cwd: root }).toSorted()) {
    const text = Fs.readFileSync(Path.join(root, document), "utf8")
    for (const { 1: prefix = "", 2: body = "", index } of text.matchAll(fence)) {
      const line = text.slice(0, index).split("\n").length
      const code = body.replaceAll(/^.*$/gm, (raw) => raw.slice(prefix.length))
      const file = Path.join(target, `${document}.${line}.test.ts`)
      Fs.mkdirSync(Path.dirname(file), { recursive: true })
      Fs.writeFileSync(file, "\n".repeat(line - 1) + toModule(code, `${document.replaceAll(Path.sep, "/")}:${line}`))
    }
  }
}

interface Edit {
  readonly start: number
  readonly end: number
  readonly text: string
}

// An example that is malformed becomes a test that fails, so that the others still run.
const toModule = (code: string, name: string): string => {
  const imports = [`import { assert, test } from "@effect/vitest"`]
  const test = (body: string) => `${imports.join("; ")}; test(${JSON.stringify(name)}, async () => {\n${body}})\n`
  const malformed = (why: string) => test(`assert.fail(${JSON.stringify(why)})\n`)
  const { errors, program } = parseSync("example.ts", code)
  if (errors[0] !== undefined) return malformed(errors[0].message)

  const edits: Array<Edit> = []
  let assertions = 0
  new Visitor({
    ImportDeclaration: ({ end, start }) => {
      const source = code.slice(start, end)
      imports.push(source.replaceAll(/\s*\n\s*/g, " "))
      edits.push({ start, end, text: source.replaceAll(/[^\n]/g, "") })
    },
    ExpressionStatement: ({ expression: { end, start } }) => {
      const expected = expectation(code.slice(end))
      if (expected === undefined) return
      assertions += 1
      edits.push({ start, end: start, text: "assert.deepStrictEqual(" })
      edits.push({ start: end, end: end + expected.length, text: `,${expected.value});` })
    }
  }).visit(program)
  if (assertions !== code.split("// =>").length - 1) {
    return malformed('A "// =>" is not followed by a value, or does not follow an expression that is a whole statement')
  }

  let body = code
  for (const { end, start, text } of edits.toSorted((left, right) => right.start - left.start)) {
    body = body.slice(0, start) + text + body.slice(end)
  }
  return test(body)
}

/** Reads the `// => value` that follows an expression: its value, and how many characters it takes. */
const expectation = (after: string): { readonly value: string; readonly length: number } | undefined => {
  const [, gap = "", comment] = /^(;?[ \t]*(?:\n[ \t]*)?)\/\/ =>(.*(?:\n[ \t]*\/\/.*)*)/.exec(after) ?? []
  const lines = comment?.split("\n") ?? []
  // A remark may follow the value, so it takes no more lines than it needs.
  for (let taken = 1; taken <= lines.length; taken++) {
    const source = lines.slice(0, taken).join("\n")
    const value = gap.replaceAll(/[^\n]/g, "") + source.replaceAll(/^[ \t]*\/\//gm, "")
    if (parseSync("value.ts", `(${value})`).errors.length === 0) {
      return { value, length: gap.length + "// =>".length + source.length }
    }
  }
  return undefined
}

extract()
