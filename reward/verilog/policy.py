"""What a design may contain: an allow-list of syntax, and the few system functions that cannot reach anything.

Anything not listed is refused, so a construct nobody thought of is refused too. Left out on purpose: force/release,
final blocks, bind, classes, programs, interfaces, switches that conduct both ways, DPI. What only checks, prints or
hints is dropped before the design runs: assertions, specify blocks (the simulator ignores them too), attributes.
"""

from pyslang.parsing import TokenKind
from pyslang.syntax import SyntaxKind


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def kinds(names: str) -> frozenset[SyntaxKind]:
    return frozenset(getattr(SyntaxKind, name) for name in names.split())


# Enough for gates: continuous assignments between declared nets. No design made of these alone can hang a compiler or,
# unless its assignments form a loop, a simulator (tests/reward/verilog/test_design.py).
CALM = kinds(
    """
    ModuleDeclaration ModuleHeader AnsiPortList ImplicitAnsiPort VariablePortHeader NetPortHeader ImplicitType LogicType
    Declarator VariableDimension RangeDimensionSpecifier SimpleRangeSelect IntegerLiteralExpression
    IntegerVectorExpression UnbasedUnsizedLiteralExpression ContinuousAssign AssignmentExpression IdentifierName
    IdentifierSelectName ElementSelect BitSelect NetDeclaration EqualsValueClause ConcatenationExpression
    ConditionalExpression ConditionalPredicate ConditionalPattern ParenthesizedExpression EmptyMember
    BinaryAndExpression BinaryOrExpression BinaryXorExpression BinaryXnorExpression UnaryBitwiseNotExpression
    UnaryBitwiseAndExpression UnaryBitwiseOrExpression UnaryBitwiseXorExpression UnaryBitwiseNandExpression
    UnaryBitwiseNorExpression UnaryBitwiseXnorExpression UnaryLogicalNotExpression LogicalAndExpression
    LogicalOrExpression EqualityExpression InequalityExpression CaseEqualityExpression CaseInequalityExpression
    LessThanExpression LessThanEqualExpression GreaterThanExpression GreaterThanEqualExpression AddExpression
    SubtractExpression
    """
)

ALLOWED = CALM | kinds(
    """
    CompilationUnit NonAnsiPortList ImplicitNonAnsiPort ExplicitNonAnsiPort ExplicitAnsiPort EmptyNonAnsiPort
    PortReference PortConcatenation PortDeclaration ParameterPortList ParameterDeclaration TypeParameterDeclaration
    ParameterDeclarationStatement ParameterValueAssignment NamedParamAssignment OrderedParamAssignment
    HierarchyInstantiation HierarchicalInstance InstanceName NamedPortConnection OrderedPortConnection
    EmptyPortConnection WildcardPortConnection PrimitiveInstantiation SimplePropertyExpr SimpleSequenceExpr
    DataDeclaration LocalVariableDeclaration TypedefDeclaration NamedType EnumType StructType UnionType
    StructUnionMember
    RegType BitType ByteType ShortIntType IntType LongIntType IntegerType TimeType RealType RealTimeType VoidType
    EventType TypeAssignment EqualsTypeClause TypeReference
    AlwaysBlock AlwaysCombBlock AlwaysFFBlock AlwaysLatchBlock InitialBlock TimingControlStatement
    EventControl EventControlWithExpression ImplicitEventControl ParenthesizedEventExpression SignalEventExpression
    BinaryEventExpression IffEventClause RepeatedEventControl TimingControlExpression DelayControl Delay3 DriveStrength
    PullStrength ChargeStrength
    SequentialBlockStatement ParallelBlockStatement NamedBlockClause NamedLabel ExpressionStatement EmptyStatement
    ConditionalStatement ElseClause CaseStatement StandardCaseItem DefaultCaseItem PatternCaseItem ForLoopStatement
    ForVariableDeclaration ForeachLoopStatement ForeachLoopList LoopStatement ForeverStatement DoWhileStatement
    ReturnStatement JumpStatement WaitStatement DisableStatement BlockingEventTriggerStatement
    NonblockingEventTriggerStatement VoidCastedCallStatement
    GenerateRegion GenerateBlock LoopGenerate IfGenerate CaseGenerate GenvarDeclaration
    FunctionDeclaration TaskDeclaration FunctionPrototype FunctionPortList FunctionPort InvocationExpression
    ArgumentList
    OrderedArgument NamedArgument EmptyArgument SystemName ScopedName
    NonblockingAssignmentExpression AddAssignmentExpression SubtractAssignmentExpression MultiplyAssignmentExpression
    DivideAssignmentExpression ModAssignmentExpression AndAssignmentExpression OrAssignmentExpression
    XorAssignmentExpression LogicalLeftShiftAssignmentExpression LogicalRightShiftAssignmentExpression
    ArithmeticLeftShiftAssignmentExpression ArithmeticRightShiftAssignmentExpression PostincrementExpression
    PostdecrementExpression UnaryPreincrementExpression UnaryPredecrementExpression UnaryPlusExpression
    UnaryMinusExpression MultiplyExpression DivideExpression ModExpression PowerExpression LogicalShiftLeftExpression
    LogicalShiftRightExpression ArithmeticShiftLeftExpression ArithmeticShiftRightExpression
    WildcardEqualityExpression WildcardInequalityExpression InsideExpression RangeList ValueRangeExpression
    AscendingRangeSelect DescendingRangeSelect ElementSelectExpression MultipleConcatenationExpression
    StreamingConcatenationExpression StreamExpression CastExpression SignedCastExpression MinTypMaxExpression
    StringLiteralExpression RealLiteralExpression TimeLiteralExpression AssignmentPatternExpression
    SimpleAssignmentPattern StructuredAssignmentPattern ReplicatedAssignmentPattern AssignmentPatternItem
    DefaultPatternKeyExpression
    DefParam DefParamAssignment ProceduralAssignStatement ProceduralDeassignStatement StringType
    PackageDeclaration PackageHeader PackageImportDeclaration PackageImportItem
    UdpDeclaration AnsiUdpPortList NonAnsiUdpPortList WildcardUdpPortList UdpBody UdpInputPortDecl UdpOutputPortDecl
    UdpInitialStmt UdpEntry UdpEdgeField UdpSimpleField
    """
)

# Nets and switches that pull on what they are connected to: through a port, on what others read.
PULLING = words("tran tranif0 tranif1 rtran rtranif0 rtranif1 pullup pulldown tri0 tri1 trireg")
SUPPLIES = words("supply0 supply1")  # the same, but harmless as nets inside a module

# Dropped with what they contain: synthesis hints.
DROPPED = kinds("AttributeInstance TimeUnitsDeclaration")
HINTS = frozenset((TokenKind.UniqueKeyword, TokenKind.Unique0Keyword, TokenKind.PriorityKeyword))

# Dropped for an empty member or statement: checks, which the simulator does not read in most forms.
DROPPED_MEMBERS = kinds(
    """
    ImmediateAssertionMember ConcurrentAssertionMember PropertyDeclaration SequenceDeclaration
    DefaultDisableDeclaration ElabSystemTask SpecifyBlock
    """
)
DROPPED_STATEMENTS = kinds(
    """
    ImmediateAssertStatement ImmediateAssumeStatement ImmediateCoverStatement AssertPropertyStatement
    AssumePropertyStatement CoverPropertyStatement
    """
)

# Statements of these are dropped before the design runs, so nothing it would print exists.
PRINTING = frozenset(
    f"${task}{base}" for task in ("display", "write", "strobe", "monitor") for base in ("", "b", "o", "h")
) | frozenset(("$info", "$warning", "$error", "$monitoron", "$monitoroff", "$timeformat", "$printtimescale"))

# Pure functions of their arguments.
FUNCTIONS = words(
    """
    $signed $unsigned $clog2 $bits $size $left $right $low $high $increment $dimensions $unpacked_dimensions $countones
    $onehot $onehot0 $isunknown $countbits $rtoi $itor $realtobits $bitstoreal $ceil $floor $ln $log10 $exp $sqrt $pow
    $sin $cos $tan $asin $acos $atan $atan2 $hypot $sinh $cosh $tanh $abs $min $max
    """
)

# In escaped names: iverilog strips the backslash, so \$finish is the system task, and its preprocessor looks inside;
# and we put no space around `::`, so that the next word would become part of the name.
UNSAFE_IN_NAMES = ("$", '"', "`", "/*", "//", "::")

OPENERS = frozenset((TokenKind.OpenParenthesis, TokenKind.OpenBrace, TokenKind.OpenBracket))
CLOSERS = frozenset((TokenKind.CloseParenthesis, TokenKind.CloseBrace, TokenKind.CloseBracket))
